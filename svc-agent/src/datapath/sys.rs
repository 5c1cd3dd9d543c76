//! The bpf(2) commands that aya does not offer: links by interface index and cgroup, their update in place and their
//! state, and one trial run. Structures come from aya's kernel bindings. All unsafe code of loading and attaching is here.
//! Must not decide anything. Neighbours: `tc`, `cgroup` and `features` call it.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub use aya_obj::generated::bpf_attach_type as AttachType;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type, bpf_prog_type};

/// What a link hangs on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkTarget {
    /// Zero once the interface is gone.
    Interface(u32),
    /// Zero once the cgroup is gone.
    Cgroup(u64),
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkInfo {
    pub id: u32,
    pub program_id: u32,
    pub target: LinkTarget,
    /// As in [`AttachType`].
    pub attach_type: u32,
}

/// One instruction as the kernel takes it: opcode, registers, offset, immediate.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Instruction {
    pub opcode: u8,
    /// Destination in the low half, source in the high half.
    pub registers: u8,
    pub offset: i16,
    pub immediate: i32,
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: the kernel reads and writes within the size given; pointers in `attr` outlive the call in every caller.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn bpf_fd(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just returned this descriptor to us; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn zeroed_attr() -> bpf_attr {
    // SAFETY: a union of structures of integers; all zero is valid, and what the kernel wants in unused fields.
    unsafe { std::mem::zeroed() }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

/// Opens a pinned object of any kind.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    bpf_fd(bpf_cmd::BPF_OBJ_GET, &mut attr)
}

/// Pins an object; fails if the path exists.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed_attr();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    attr.__bindgen_anon_4.bpf_fd = raw(object);
    bpf(bpf_cmd::BPF_OBJ_PIN, &mut attr).map(drop)
}

/// Attaches a program to an interface (TCX); `flags` say where among others (BPF_F_BEFORE, BPF_F_AFTER).
pub fn link_to_interface(program: BorrowedFd<'_>, index: u32, at: AttachType, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_ifindex = index;
    attr.link_create.attach_type = at as u32;
    attr.link_create.flags = flags;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Puts a program in front of an interface's stack (XDP); `flags` choose the mode (XDP_FLAGS_*).
pub fn link_to_xdp(program: BorrowedFd<'_>, index: u32, flags: u32) -> io::Result<OwnedFd> {
    link_to_interface(program, index, AttachType::BPF_XDP, flags)
}

/// Attaches a program to a cgroup, beside the programs of others. The kernel treats every cgroup link as
/// BPF_F_ALLOW_MULTI and refuses any flag here.
pub fn link_to_cgroup(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, at: AttachType) -> io::Result<OwnedFd> {
    let mut attr = zeroed_attr();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_fd = raw(cgroup);
    attr.link_create.attach_type = at as u32;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Replaces the program of a link; no packet and no system call passes without one of the two.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_update.link_fd = raw(link);
    attr.link_update.__bindgen_anon_1.new_prog_fd = raw(program);
    bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Takes a link off what it hangs on before returning, whoever else holds it.
pub fn detach_link(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = zeroed_attr();
    attr.link_detach.link_fd = raw(link);
    bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr).map(drop)
}

pub fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    // SAFETY: integers and unions of integers only.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed_attr();
    attr.info.bpf_fd = raw(link);
    attr.info.info_len = size_of::<bpf_link_info>() as u32;
    attr.info.info = &raw mut info as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    let (target, attach_type) = if info.type_ == bpf_link_type::BPF_LINK_TYPE_TCX as u32 {
        // SAFETY: the type says which member the kernel filled in; all members are integers.
        let tcx = unsafe { info.__bindgen_anon_1.tcx };
        (LinkTarget::Interface(tcx.ifindex), tcx.attach_type)
    } else if info.type_ == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32 {
        // SAFETY: as above.
        let cgroup = unsafe { info.__bindgen_anon_1.cgroup };
        (LinkTarget::Cgroup(cgroup.cgroup_id), cgroup.attach_type)
    } else if info.type_ == bpf_link_type::BPF_LINK_TYPE_XDP as u32 {
        // SAFETY: as above.
        let xdp = unsafe { info.__bindgen_anon_1.xdp };
        (LinkTarget::Interface(xdp.ifindex), AttachType::BPF_XDP as u32)
    } else {
        (LinkTarget::Other, 0)
    };
    Ok(LinkInfo { id: info.id, program_id: info.prog_id, target, attach_type })
}

/// Identifiers of the TCX links on one side of an interface of the caller's network namespace, in the order they run.
/// Kernels without TCX answer EINVAL.
pub fn interface_links(index: u32, at: AttachType) -> io::Result<Vec<u32>> {
    const AT_MOST: usize = 64;
    let (mut programs, mut links) = ([0u32; AT_MOST], [0u32; AT_MOST]);
    let mut attr = zeroed_attr();
    attr.query.__bindgen_anon_1.target_ifindex = index;
    attr.query.attach_type = at as u32;
    attr.query.prog_ids = programs.as_mut_ptr() as u64;
    attr.query.link_ids = links.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.count = AT_MOST as u32;
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: the kernel wrote the number of programs here.
    let count = unsafe { attr.query.__bindgen_anon_2.count };
    Ok(links.into_iter().take(count as usize).collect())
}

/// Loads a classifier and runs it once on `packet`; answers with its return value.
pub fn try_classifier(instructions: &[Instruction], packet: &[u8]) -> io::Result<u32> {
    let mut load = zeroed_attr();
    load.__bindgen_anon_3.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    load.__bindgen_anon_3.insns = instructions.as_ptr() as u64;
    load.__bindgen_anon_3.insn_cnt = instructions.len() as u32;
    load.__bindgen_anon_3.license = c"GPL".as_ptr() as u64;
    let program = bpf_fd(bpf_cmd::BPF_PROG_LOAD, &mut load)?;
    let mut run = zeroed_attr();
    run.test.prog_fd = program.as_raw_fd() as u32;
    run.test.data_in = packet.as_ptr() as u64;
    run.test.data_size_in = packet.len() as u32;
    run.test.repeat = 1;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut run)?;
    // SAFETY: the kernel wrote the return value here.
    Ok(unsafe { run.test.retval })
}

/// As in asm-generic/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Cookie of the caller's network namespace (5.14).
pub fn netns_cookie() -> io::Result<u64> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    let (mut cookie, mut size) = (0u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes at most `size` bytes into `cookie`.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut size)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}
