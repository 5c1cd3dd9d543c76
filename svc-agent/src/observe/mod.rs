//! Looks at the datapath and shows it: lists for `svc-agent get`, lines for `monitor`, metrics and health over HTTP.
//! Never writes to a map. Rows are pure functions of what a [`reader::MapReader`] answers; `datapath` has the real one.
//! The fields of every JSON form are listed at its row type and stay stable.

pub mod backends;
pub mod drops;
pub mod events;
pub mod flows;
pub mod label;
pub mod print;
pub mod reader;
pub mod services;
