//! Engine.IO and Socket.IO packets, as pure functions over bytes.
