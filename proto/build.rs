//! Generates the wire types with protox: no protoc has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "shoal/v1/agent.proto",
        "shoal/v1/metrics.proto",
        "shoal/v1/control.proto",
        // As Prometheus publishes it.
        "io/prometheus/client/metrics.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    println!("cargo:rerun-if-changed=proto");
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}
