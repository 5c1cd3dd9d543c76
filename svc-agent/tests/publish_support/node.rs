//! A publisher on plain memory with a clock of its own; after every operation it is audited.

use std::time::{Duration, Instant};

use svc_agent::model::Transport;
use svc_agent::publish::memory::{MemoryMaps, Write};
use svc_agent::publish::{Capacities, Frontend, MapsSnapshot, PublishError, Publisher};

use super::{object_name, plans};

pub struct Node {
    pub publisher: Publisher<MemoryMaps>,
    pub now: Instant,
}

impl Node {
    pub fn new(capacities: Capacities) -> Self {
        Self { publisher: Publisher::new(MemoryMaps::new(capacities)), now: Instant::now() }
    }

    #[expect(clippy::result_large_err, reason = "the error as the publisher gives it")]
    pub fn try_publish(&mut self, texts: &[&str]) -> Result<bool, PublishError> {
        let plans = plans(texts);
        self.publisher.publish_service(self.now, &plans[0].id.service, &plans)
    }

    pub fn publish(&mut self, texts: &[&str]) -> Vec<Write> {
        self.publisher.maps_mut().take_log();
        self.try_publish(texts).unwrap();
        assert_eq!(self.publisher.audit(), None);
        self.publisher.maps_mut().take_log()
    }

    pub fn remove(&mut self, object: &str) -> Vec<Write> {
        self.publisher.maps_mut().take_log();
        self.publisher.remove_service(self.now, &object_name(object)).unwrap();
        assert_eq!(self.publisher.audit(), None);
        self.publisher.maps_mut().take_log()
    }

    pub fn pass(&mut self, time: Duration) -> Vec<Write> {
        self.now += time;
        self.publisher.maps_mut().take_log();
        self.publisher.tick(self.now);
        assert_eq!(self.publisher.audit(), None);
        self.publisher.maps_mut().take_log()
    }

    pub fn text(&self) -> String {
        MapsSnapshot::read(self.publisher.maps()).unwrap().to_string()
    }

    pub fn restart(&mut self) {
        let maps = self.publisher.maps().share();
        let (publisher, _) = Publisher::adopt(maps, self.now).unwrap();
        self.publisher = publisher;
        assert_eq!(self.publisher.audit(), None);
    }
}

pub fn frontend(address: &str) -> Frontend {
    Frontend::new(address.parse().unwrap(), Transport::Tcp)
}

/// The log without everything but frontends and markers, as text: `+80`, `-0`.
pub fn frontend_writes(log: &[Write]) -> Vec<String> {
    let port = |frontend: &Frontend| frontend.port.to_host();
    log.iter()
        .filter_map(|write| match write {
            Write::InsertFrontend(frontend, _) => Some(format!("+{}", port(frontend))),
            Write::DeleteFrontend(frontend) => Some(format!("-{}", port(frontend))),
            _ => None,
        })
        .collect()
}
