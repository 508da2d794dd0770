//! Socket.IO nodes and an echo origin to aim at.
