//! Facts about the machine and the programs that a number depends on, for the header of every report; and how busy it is.

use std::{fs, process::Command};

use anyhow::{Context as _, Result};
use rustix::{process::geteuid, system::uname};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// What and its value, in the order they are shown.
    pub facts: Vec<(String, String)>,
}

impl Machine {
    pub fn read() -> Self {
        let mut machine = Self::default();
        let system = uname();
        machine.add("kernel", system.release().to_string_lossy());
        machine.add("architecture", system.machine().to_string_lossy());
        machine.add("CPU", field("/proc/cpuinfo", "model name"));
        machine.add("cores", std::thread::available_parallelism().map_or(0, usize::from).to_string());
        machine.add("memory", memory());
        machine
            .add("virtual machine", if field("/proc/cpuinfo", "flags").contains("hypervisor") { "yes" } else { "no" });
        machine.add("mitigations", mitigations());
        machine.add(
            "BPF JIT",
            read("/proc/sys/net/core/bpf_jit_enable") + ", hardening " + &read("/proc/sys/net/core/bpf_jit_harden"),
        );
        machine.add("load when it began", read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "));
        machine.add("root", if geteuid().is_root() { "yes" } else { "no" });
        machine
    }

    pub fn add(&mut self, what: &str, value: impl AsRef<str>) {
        self.facts.push((what.to_owned(), value.as_ref().trim().to_owned()));
    }

    /// First line a program says about its version.
    pub fn add_version(&mut self, program: &str, arguments: &[&str]) {
        let Ok(output) = Command::new(program).args(arguments).output() else { return };
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        if let Some(line) =
            text.lines().map(str::trim).find(|line| line.contains(|letter: char| letter.is_ascii_digit()))
        {
            self.add(program, line);
        }
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn field(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name);
    value.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

fn memory() -> String {
    let kibibytes = field("/proc/meminfo", "MemTotal");
    match kibibytes.trim_end_matches(" kB").parse::<f64>() {
        Ok(value) => format!("{:.1} GiB", value / f64::from(1 << 20)),
        Err(_) => kibibytes,
    }
}

/// Those that are on: each costs something on every system call or indirect jump.
fn mitigations() -> String {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else { return "unknown".to_owned() };
    let mut on: Vec<String> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let state = fs::read_to_string(entry.path()).ok()?;
            let state = state.strip_prefix("Mitigation: ")?.split([';', '\n']).next()?.trim().to_owned();
            Some(format!("{}: {state}", entry.file_name().to_string_lossy()))
        })
        .collect();
    on.sort();
    if on.is_empty() { "none".to_owned() } else { on.join("; ") }
}

/// CPU time the machine has spent on anything since it started, as /proc/stat counts idleness: to a hundredth of a second.
pub fn busy_seconds() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|number| number.parse().ok()).collect();
    // user nice system idle iowait irq softirq; steal is another machine's work, guests are in user already.
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|column| ticks.get(*column)).sum::<f64>();
    Ok(busy / rustix::param::clock_ticks_per_second() as f64)
}
