//! The `process_*` metrics every Prometheus client library exports, read from /proc at scrape time.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};

#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        // Without /proc the series are left out, as other client libraries do.
        let Some(process) = Process::read() else { return Ok(()) };
        let cpu = ConstCounter::new(process.cpu_seconds);
        let help = "Total user and system CPU time spent in seconds";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)?;
        for (name, help, value) in [
            ("process_network_receive_bytes", "Number of bytes received over the network", process.received_bytes),
            ("process_network_transmit_bytes", "Number of bytes sent over the network", process.sent_bytes),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let gauges = [
            ("process_resident_memory_bytes", "Resident memory size in bytes", process.resident_bytes),
            ("process_virtual_memory_bytes", "Virtual memory size in bytes", process.virtual_bytes),
            ("process_virtual_memory_max_bytes", "Maximum amount of virtual memory in bytes", process.virtual_limit),
            ("process_open_fds", "Number of open file descriptors", process.open_files),
            ("process_max_fds", "Maximum number of open file descriptors", process.files_limit),
            ("process_start_time_seconds", "Start time of the process since unix epoch in seconds", process.start_time),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

struct Process {
    cpu_seconds: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    virtual_limit: f64,
    open_files: f64,
    files_limit: f64,
    start_time: f64,
    /// Of the network namespace, as other client libraries count.
    received_bytes: f64,
    sent_bytes: f64,
}

impl Process {
    fn read() -> Option<Self> {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The command in parentheses may hold anything; proc(5) counts fields from 1, state is the third.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        let boot = fs::read_to_string("/proc/stat").ok()?;
        let boot: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
        let netstat = fs::read_to_string("/proc/self/net/netstat").ok()?;
        let octets = |name: &str| ip_extension(&netstat, name);
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / ticks,
            start_time: boot + field(22)? / ticks,
            virtual_bytes: field(23)?,
            virtual_limit: limit(Resource::As),
            resident_bytes: field(24)? * rustix::param::page_size() as f64,
            open_files: fs::read_dir("/proc/self/fd").ok()?.count() as f64,
            files_limit: limit(Resource::Nofile),
            received_bytes: octets("InOctets")?,
            sent_bytes: octets("OutOctets")?,
        })
    }
}

/// Where there is no limit, the largest number, as other client libraries say.
fn limit(resource: Resource) -> f64 {
    getrlimit(resource).current.map_or(u64::MAX as f64, |limit| limit as f64)
}

/// A value of the pair of lines `IpExt:` of /proc/net/netstat: names in the first, values in the second.
fn ip_extension(netstat: &str, name: &str) -> Option<f64> {
    let mut lines = netstat.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let position = lines.next()?.split(' ').position(|found| found == name)?;
    lines.next()?.split(' ').nth(position)?.parse().ok()
}
