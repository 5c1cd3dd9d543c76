//! Why a service could not be published, in words for an operator.

use svc_common::map;

use super::maps::{Frontend, MapsError};
use crate::plan::ServiceId;

/// The service keeps what it had before, unless the error says otherwise; [`super::Publisher::tick`] tries again.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(
        "service {service} at {frontend} does not fit: map {map} is full ({capacity} entries). It keeps what it had \
         before and is retried when space is freed; remove services, or raise the capacity of {map}"
    )]
    Full { service: ServiceId, frontend: Frontend, map: &'static str, capacity: u32 },
    #[error(
        "service {service} at {frontend} spreads connections evenly instead of by its weights or Maglev table, which \
         do not fit: map {} is full ({capacity} entries). It is retried when space is freed; use Maglev for fewer \
         services",
        map::SLOTS
    )]
    Reduced { service: ServiceId, frontend: Frontend, capacity: u32 },
    #[error(
        "service {service} cannot have {frontend}: service {owner} has it. It is retried when that one lets go; \
         give one of them another address or port if it does not"
    )]
    FrontendTaken { service: ServiceId, frontend: Frontend, owner: Box<ServiceId> },
    #[error(
        "service {service} at {frontend} could not be written: {source}. It keeps what it had before and is retried"
    )]
    Refused { service: ServiceId, frontend: Frontend, source: Box<MapsError> },
}

impl PublishError {
    /// Only freed space helps.
    pub fn is_lack_of_space(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Reduced { .. })
    }
}
