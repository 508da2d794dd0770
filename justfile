# Daily commands; `just` lists them. https://just.systems

_default:
    @just --list --unsorted

# Run the demo: TLS, three Socket.IO nodes and a chat page
demo:
    cargo run --release -- demo

# Run the proxy from a configuration file
run FILE="moorline.toml":
    cargo run --release -- run {{ FILE }}

# Check types and lints as tests/run does
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy --all-targets --no-default-features -- -D warnings

# Format everything
fmt:
    cargo fmt --all

# Run Rust tests; FILTER is a part of their names
test FILTER="":
    cargo test --workspace {{ FILTER }}

# Run everything that continuous integration runs
ci *FLAGS:
    tests/run {{ FLAGS }}

# Check licenses, bans and sources of dependencies
deny:
    cargo deny check licenses bans sources

# Build the API documentation without warnings, and open it
doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --open

# Build the book
book:
    mdbook build docs

# Write the expected messages of faulty configurations anew, to be read before a commit
bless:
    BLESS=1 cargo test --test it config::bad_files_get_every_fault_shown

# Fuzz a target for some seconds
fuzz TARGET SECONDS="60":
    tests/fuzz {{ TARGET }} {{ SECONDS }}

# Compare with nginx, HAProxy and Caddy
compare:
    benches/compare/run

# Build release files: binary, Debian package, image, SBOM, checksums
release *FLAGS:
    deploy/release {{ FLAGS }}

# Build the Debian package and the image from a debug build, and install the package under systemd
package:
    cargo build
    tests/package
