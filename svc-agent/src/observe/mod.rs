//! Metrics, health, and reading the pinned maps for people.
