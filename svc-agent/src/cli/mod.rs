//! Command line: one file per subcommand.

pub mod get;
pub mod monitor;
