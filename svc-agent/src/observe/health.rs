//! Health as kube-proxy 1.36 defines it: late updates make the agent unhealthy, a leaving node makes `/healthz` fail. Of our own
//! is `/readyz`: whether the node's Services are programmed. Holds times and verdicts only; the run loop calls, `serve` answers.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use serde::Serialize;

/// One point in time on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub monotonic: Instant,
    pub wall: SystemTime,
}

impl Moment {
    pub fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }
}

/// Body of `/healthz` and `/livez`, field by field kube-proxy's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthReport {
    /// The current time while healthy, else the last update: clients of old releases expect it.
    pub last_updated: Timestamp,
    pub current_time: Timestamp,
    /// Only in `/healthz`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_eligible: Option<bool>,
    pub healthy: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<FamilyStatuses>,
}

/// Both families are programmed in one step, so they always agree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FamilyStatuses {
    #[serde(rename = "IPv4")]
    pub v4: FamilyStatus,
    #[serde(rename = "IPv6")]
    pub v6: FamilyStatus,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FamilyStatus {
    pub last_updated: Timestamp,
    pub healthy: bool,
}

/// Which question is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Should this node get traffic? No, if it is about to leave.
    Healthz,
    /// Should the agent be restarted? A leaving node is no reason.
    Livez,
    /// Are the Services of the cluster in the maps? kube-proxy has no such question: it is healthy while it starts.
    Readyz,
}

#[derive(Debug)]
pub struct Health {
    timeout: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    oldest_pending: Option<Instant>,
    /// None until the first update is done: healthy, but not ready.
    last_updated: Option<SystemTime>,
    node_eligible: bool,
}

impl Health {
    /// An update that waits longer than `timeout` makes the agent unhealthy.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout, state: Mutex::new(State { oldest_pending: None, last_updated: None, node_eligible: true }) }
    }

    pub fn queued(&self, now: Moment) {
        self.state().oldest_pending.get_or_insert(now.monotonic);
    }

    pub fn updated(&self, now: Moment) {
        let mut state = self.state();
        state.oldest_pending = None;
        state.last_updated = Some(now.wall);
    }

    pub fn set_node_eligible(&self, eligible: bool) {
        self.state().node_eligible = eligible;
    }

    /// Whether the probe succeeds, and the body that says why.
    pub fn report(&self, probe: Probe, now: Moment) -> (bool, HealthReport) {
        let state = self.state();
        let late =
            state.oldest_pending.is_some_and(|queued| now.monotonic.saturating_duration_since(queued) >= self.timeout);
        // Before the first update the agent is starting, however long the lists take.
        let healthy = state.last_updated.is_none() || !late;
        let node_eligible = (probe == Probe::Healthz).then_some(state.node_eligible);
        let synced = probe != Probe::Readyz || state.last_updated.is_some();
        let success = healthy && synced && node_eligible != Some(false);

        let current_time = timestamp(now.wall);
        let last_updated = state.last_updated.map(timestamp);
        let status = last_updated.map(|last_updated| {
            let status = FamilyStatus { last_updated, healthy };
            FamilyStatuses { v4: status, v6: status }
        });
        let last_updated = if success { current_time } else { last_updated.unwrap_or_else(never) };
        (success, HealthReport { last_updated, current_time, node_eligible, healthy, status })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The zero time of Go, which kube-proxy answers with before its first update: 0001-01-01T00:00:00Z.
fn never() -> Timestamp {
    Timestamp::from_second(-62_135_596_800).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn timestamp(time: SystemTime) -> Timestamp {
    Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);

    struct Clock(Moment);

    impl Clock {
        fn new() -> Self {
            Self(Moment {
                monotonic: Instant::now(),
                wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000),
            })
        }

        fn after(&self, seconds: u64) -> Moment {
            let passed = Duration::from_secs(seconds);
            Moment { monotonic: self.0.monotonic + passed, wall: self.0.wall + passed }
        }
    }

    fn succeeds(health: &Health, probe: Probe, now: Moment) -> bool {
        health.report(probe, now).0
    }

    #[test]
    fn starting_is_healthy_but_not_ready_however_long_it_takes() {
        let (clock, health) = (Clock::new(), Health::new(TIMEOUT));
        health.queued(clock.after(0));
        assert!(succeeds(&health, Probe::Healthz, clock.after(3600)));
        assert!(succeeds(&health, Probe::Livez, clock.after(3600)));
        assert!(!succeeds(&health, Probe::Readyz, clock.after(3600)));
        health.updated(clock.after(3601));
        assert!(succeeds(&health, Probe::Readyz, clock.after(3601)));
    }

    #[test]
    fn the_oldest_queued_update_counts_and_its_completion_heals() {
        let (clock, health) = (Clock::new(), Health::new(TIMEOUT));
        health.updated(clock.after(0));
        health.queued(clock.after(10));
        health.queued(clock.after(60));
        assert!(succeeds(&health, Probe::Healthz, clock.after(69)));
        assert!(!succeeds(&health, Probe::Healthz, clock.after(70)));
        assert!(!succeeds(&health, Probe::Livez, clock.after(70)));
        health.updated(clock.after(71));
        assert!(succeeds(&health, Probe::Healthz, clock.after(500)));
    }

    #[test]
    fn a_leaving_node_fails_healthz_only() {
        let (clock, health) = (Clock::new(), Health::new(TIMEOUT));
        health.updated(clock.after(0));
        health.set_node_eligible(false);
        assert!(!succeeds(&health, Probe::Healthz, clock.after(1)));
        assert!(succeeds(&health, Probe::Livez, clock.after(1)));
        assert!(succeeds(&health, Probe::Readyz, clock.after(1)));
        health.set_node_eligible(true);
        assert!(succeeds(&health, Probe::Healthz, clock.after(1)));
    }

    #[test]
    fn before_the_first_update_the_time_is_that_of_go() {
        let (clock, health) = (Clock::new(), Health::new(TIMEOUT));
        health.set_node_eligible(false);
        let (success, report) = health.report(Probe::Healthz, clock.after(0));
        assert!(!success);
        assert_eq!(report.last_updated.to_string(), "0001-01-01T00:00:00Z");
        assert!(report.status.is_none());
    }

    #[test]
    fn bodies_are_those_of_kube_proxy() {
        let (clock, health) = (Clock::new(), Health::new(TIMEOUT));
        health.updated(clock.after(0));
        let (_, report) = health.report(Probe::Healthz, clock.after(5));
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            "{\"lastUpdated\":\"2001-09-09T01:46:45Z\",\"currentTime\":\"2001-09-09T01:46:45Z\",\"nodeEligible\":true,\
             \"healthy\":true,\"status\":{\"IPv4\":{\"lastUpdated\":\"2001-09-09T01:46:40Z\",\"healthy\":true},\
             \"IPv6\":{\"lastUpdated\":\"2001-09-09T01:46:40Z\",\"healthy\":true}}}"
        );
        health.queued(clock.after(5));
        let (_, report) = health.report(Probe::Livez, clock.after(65));
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            "{\"lastUpdated\":\"2001-09-09T01:46:40Z\",\"currentTime\":\"2001-09-09T01:47:45Z\",\
             \"healthy\":false,\"status\":{\"IPv4\":{\"lastUpdated\":\"2001-09-09T01:46:40Z\",\"healthy\":false},\
             \"IPv6\":{\"lastUpdated\":\"2001-09-09T01:46:40Z\",\"healthy\":false}}}"
        );
    }
}
