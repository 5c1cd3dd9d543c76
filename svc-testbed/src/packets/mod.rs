//! Packet test kit: cases as data, played natively (`svc_datapath` on memory) and by the real programs in the kernel
//! (BPF_PROG_TEST_RUN), with etherparse as the judge of headers and checksums. A mistake in a case is a failed
//! test, hence the panics. Neighbours: `svc-datapath` and `svc-ebpf` are under test; `bench/programs` borrows worlds and kernel.
#![expect(clippy::expect_used, clippy::panic, reason = "a case that cannot be built is a failed test")]

mod accesses;
pub mod case;
pub mod cases;
pub mod express;
pub mod frame;
pub mod kernel;
pub mod native;
pub mod oracle;
pub mod packet;
pub mod runner;
pub mod show;
pub mod state;
pub mod tables;
pub(crate) mod testrun;
pub mod world;
