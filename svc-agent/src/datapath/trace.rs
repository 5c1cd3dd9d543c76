//! Forwards the log records of the kernel programs to `tracing`, target `packet`, while the agent runs with
//! `--trace-packets`. Must not be needed for anything else.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Hands records of aya-log to `tracing`.
struct PacketLog;

impl Log for PacketLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        match record.level() {
            Level::Error | Level::Warn => tracing::warn!(target: "packet", "{}", record.args()),
            _ => tracing::info!(target: "packet", "{}", record.args()),
        }
    }

    fn flush(&self) {}
}

/// Starts forwarding. Programs built without log records have no buffer for them: a warning, no failure.
pub fn forward(ebpf: &mut Ebpf) {
    let logger = match EbpfLogger::init_with_logger(ebpf, PacketLog) {
        Ok(logger) => logger,
        Err(error) => return tracing::warn!(%error, "--trace-packets: the programs have no log records"),
    };
    // SAFETY: the logger owns its descriptor, which stays open and the same until the logger is dropped.
    let mut logger = match unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) } {
        Ok(logger) => logger,
        Err(error) => return tracing::warn!(%error, "--trace-packets: cannot wait for log records"),
    };
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
}
