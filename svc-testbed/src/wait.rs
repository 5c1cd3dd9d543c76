//! Waiting with a deadline: the only way tests and the lab wait for something to become true.

use std::{
    fmt::Debug,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

/// Repeats `attempt` until it succeeds. Fails with its last error once `timeout` has passed.
pub fn until<T>(what: &str, timeout: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("{what}: not within {timeout:?}")));
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Repeats `read` until `accept` likes the value. The last value seen is part of the error.
pub fn until_value<T: Debug>(
    what: &str,
    timeout: Duration,
    mut read: impl FnMut() -> Result<T>,
    accept: impl Fn(&T) -> bool,
) -> Result<T> {
    until(what, timeout, || {
        let value = read()?;
        if accept(&value) { Ok(value) } else { Err(anyhow!("last seen: {value:?}")) }
    })
}
