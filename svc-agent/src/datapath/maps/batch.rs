//! bpf(2) batch operations on hash maps, which aya lacks: one system call for thousands of entries.
//! Must not decide what to do about an error; [`super::table`] falls back to single operations.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use bytemuck::Pod;

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Inserts or replaces entries in order; on an error the number of those that were written.
pub(super) fn update<K: Pod, V: Pod>(fd: BorrowedFd<'_>, keys: &[K], values: &[V]) -> Result<(), (usize, io::Error)> {
    if keys.len() != values.len() {
        return Err((0, io::Error::from(io::ErrorKind::InvalidInput)));
    }
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        map_fd: fd.as_raw_fd() as u32,
        ..Default::default()
    };
    // SAFETY: keys and values are arrays of `count` elements of the map's own sizes (checked when the table was
    // opened), only read by the kernel, and outlive the call.
    let result = unsafe { call(BPF_MAP_UPDATE_BATCH, &mut attr) };
    // A kernel that does not know the command leaves the count as it was.
    let done = if attr.count < keys.len() as u32 { attr.count as usize } else { 0 };
    result.map_err(|error| (done, error))
}

/// One step of reading a hash map: up to `keys.len()` entries from `cursor` on. Returns how many there are and whether
/// they were the last. ENOSPC: one hash bucket holds more entries than fit, try again with more room.
/// `values` has room for `keys.len()` values of `V` each repeated `repeat` times (per-CPU maps; V a multiple of 8 then).
pub(super) fn lookup<K: Pod, V: Pod>(
    fd: BorrowedFd<'_>,
    cursor: &mut Option<u32>,
    keys: &mut [K],
    values: &mut [V],
    repeat: usize,
) -> io::Result<(usize, bool)> {
    if keys.len() * repeat != values.len() || (repeat > 1 && !size_of::<V>().is_multiple_of(8)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let input = *cursor;
    let mut output = 0u32;
    let mut attr = BatchAttr {
        in_batch: input.as_ref().map_or(0, |bucket| std::ptr::from_ref(bucket) as u64),
        out_batch: std::ptr::from_mut(&mut output) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: keys.len() as u32,
        map_fd: fd.as_raw_fd() as u32,
        ..Default::default()
    };
    // SAFETY: keys and values have room for `count` elements of the map's own sizes, the cursors are the u32 that hash
    // maps use, and all of it outlives the call.
    let result = unsafe { call(BPF_MAP_LOOKUP_BATCH, &mut attr) };
    match result {
        Ok(()) => {
            *cursor = Some(output);
            Ok((attr.count as usize, false))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((attr.count as usize, true)),
        Err(error) => Err(error),
    }
}

/// # Safety
/// The pointers in `attr` must suit the command and live until it returns.
unsafe fn call(command: libc::c_long, attr: &mut BatchAttr) -> io::Result<()> {
    // SAFETY: `attr` is a prefix of union bpf_attr of the stated size; the rest is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<BatchAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The kernel has no batch operations for this map: older than 5.6, or not for this map type.
pub(super) fn is_unsupported(error: &io::Error) -> bool {
    const ENOTSUPP: i32 = 524;
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP))
}

pub(super) fn clone_fd(map: &aya::maps::MapData) -> io::Result<std::os::fd::OwnedFd> {
    map.fd().as_fd().try_clone_to_owned()
}
