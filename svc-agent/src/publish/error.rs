//! Why a service could not be published, in words for an operator.

use super::maps::{Frontend, MapsError};
use crate::plan::ServiceId;

/// The service keeps what it had before; [`super::Publisher::tick`] tries again.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(
        "service {service} at {frontend} does not fit: map {map} is full ({capacity} entries). It keeps what it had \
         before and is retried when space is freed; remove services, or raise the capacity of {map}"
    )]
    Full { service: ServiceId, frontend: Frontend, map: &'static str, capacity: u32 },
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
