# Short names for what people do here every day. `just` lists them.

_default:
    @just --list

# The fast half of the gate: formatting, lints.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings

# All tests, or those that match: `just test lease`.
test *filter:
    bash .ci/test {{ filter }}

# Measure the device engine, and what it costs to ask for past runs.
bench *args:
    cargo bench --workspace {{ args }}

# Let a fuzzer try a decoder (cargo install cargo-fuzz): `just fuzz mqtt`.
fuzz target *args:
    cargo +nightly fuzz run {{ target }} {{ args }}

# A fleet with bad luck: the roster over many seeds, then real processes that are killed, frozen and cut off,
# as many times as the second number says (half a minute each).
chaos seeds="100000" runs="50":
    SHOAL_SEEDS={{ seeds }} cargo test --release --locked -p shoal-domain --lib -- simulation
    cargo build --workspace --bins --locked
    cargo test --workspace --locked --test e2e -- outages standby killed
    SHOAL_CHAOS=10 cargo test --workspace --locked --test e2e -- --ignored --test-threads 1 --nocapture
    SHOAL_CHAOS={{ runs }} cargo test --workspace --locked --test e2e -- chaos --nocapture
    cargo test --workspace --locked --test spec -- agents observers

# The documentation of the code, private items included.
doc:
    cargo doc --workspace --no-deps --document-private-items --open

# Everything that CI runs.
ci:
    bash .ci/run

# A control plane with two agents on this machine, until Ctrl-C.
dev:
    cargo run --bin shoal -- serve --agents 2
