//! Indexed cluster state.
