//! HTTP requests by wrk, over open connections or each over one of its own.

use anyhow::{Context, Result, bail};

use super::{
    super::paths::{Offer, Target},
    output,
};

pub fn requests(target: &Target<'_>, seconds: u32, keep: bool) -> Result<Vec<f64>> {
    let mut command = target.client()?.command("wrk")?;
    command.args(["-t1", "-c16", "--latency", &format!("-d{seconds}s")]);
    if !keep {
        command.args(["-H", "Connection: close"]);
    }
    command.arg(format!("http://{}/", target.address(Offer::Http)?));
    read(&output(command)?)
}

/// Requests per second, p50 and p99 in microseconds.
fn read(report: &str) -> Result<Vec<f64>> {
    if let Some(line) = report.lines().find(|line| line.contains("Socket errors") || line.contains("Non-2xx")) {
        // A connection wrk had to give up at the end of its time is none.
        let failed =
            line.split(|letter: char| !letter.is_ascii_digit()).filter_map(|number| number.parse::<u64>().ok());
        if !line.contains("Socket errors") || failed.sum::<u64>() > 50 {
            bail!("wrk: {}", line.trim());
        }
    }
    let value = |name: &str| {
        let rest = report.lines().find_map(|line| line.trim().strip_prefix(name));
        rest.map(str::trim).with_context(|| format!("wrk said nothing of {name}"))
    };
    Ok(vec![value("Requests/sec:")?.parse()?, microseconds(value("50%")?)?, microseconds(value("99%")?)?])
}

fn microseconds(text: &str) -> Result<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let found = units.iter().find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor));
    found.with_context(|| format!("{text} is no time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "Running 1s test @ http://10.96.0.10:80/
  1 threads and 16 connections
  Latency Distribution
     50%  456.00us
     75%    1.02ms
     90%    1.50ms
     99%    2.10s
  34567 requests in 1.00s, 5.00MB read
Requests/sec:  34567.89
Transfer/sec:      5.00MB
";

    #[test]
    fn reads_rate_and_latency() {
        assert_eq!(read(REPORT).unwrap(), [34567.89, 456.0, 2_100_000.0]);
    }

    #[test]
    fn failed_requests_are_no_sample() {
        let refused = "  Socket errors: connect 16, read 300, write 0, timeout 0\n";
        assert!(read(&format!("{REPORT}{refused}")).is_err());
        assert!(read(&format!("{REPORT}  Non-2xx or 3xx responses: 5\n")).is_err());
        assert!(read(&format!("{REPORT}  Socket errors: connect 0, read 0, write 0, timeout 1\n")).is_ok());
    }
}
