//! TCP throughput by iperf3.

use anyhow::{Context, Result};
use serde_json::Value;

use super::{
    super::paths::{Offer, Target},
    output,
};

pub fn throughput(target: &Target<'_>, seconds: u32, streams: u32) -> Result<Vec<f64>> {
    let address = target.address(Offer::Iperf)?;
    let mut command = target.client()?.command("iperf3")?;
    command.args(["-J", "-c", &address.ip().to_string(), "-p", &address.port().to_string()]);
    command.args(["-t", &seconds.to_string(), "-P", &streams.to_string(), "--connect-timeout", "2000"]);
    Ok(vec![read(&output(command)?)? / 1e9])
}

/// Bits per second in iperf3's report.
fn read(report: &str) -> Result<f64> {
    let report: Value = serde_json::from_str(report).context("iperf3 wrote no JSON")?;
    report.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64).context("iperf3 received nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_received() {
        assert_eq!(read(r#"{"end": {"sum_received": {"bits_per_second": 2.5e9}}}"#).unwrap(), 2.5e9);
        assert!(read(r#"{"error": "unable to connect"}"#).is_err());
    }
}
