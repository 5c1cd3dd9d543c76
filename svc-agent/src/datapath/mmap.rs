//! Array maps mapped into memory: elements as 64-bit words, each read and written in one piece.
//! Maps a window of the array when it is first touched, so that memory follows use and not the ceiling.
//! Must not know what the words mean; [`super::maps`] does.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags};

const WINDOW: usize = 256 * 1024;
const WORD: usize = size_of::<u64>();

/// What a mapping may be used for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

/// All elements of one array map made with BPF_F_MMAPABLE.
pub(super) struct ArrayMapping {
    fd: OwnedFd,
    protection: ProtFlags,
    /// Words in one element.
    stride: usize,
    entries: u32,
    windows: Box<[OnceLock<Window>]>,
}

impl ArrayMapping {
    /// `element` is the value size of the map; the kernel rounds it up to a multiple of 8.
    pub fn new(fd: BorrowedFd<'_>, element: usize, entries: u32, access: Access) -> io::Result<Self> {
        let stride = element.div_ceil(WORD);
        // Elements must not cross windows.
        if stride == 0 || !WINDOW.is_multiple_of(stride * WORD) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "element size does not divide a window"));
        }
        let bytes = stride * WORD * entries as usize;
        Ok(Self {
            fd: fd.try_clone_to_owned()?,
            protection: match access {
                Access::ReadOnly => ProtFlags::READ,
                Access::ReadWrite => ProtFlags::READ | ProtFlags::WRITE,
            },
            stride,
            entries,
            windows: (0..bytes.div_ceil(WINDOW)).map(|_| OnceLock::new()).collect(),
        })
    }

    pub fn entries(&self) -> u32 {
        self.entries
    }

    pub fn load(&self, index: u32, word: usize) -> io::Result<u64> {
        Ok(self.word(index, word)?.load(Ordering::Acquire))
    }

    /// One release store: whoever sees it sees everything stored before.
    pub fn store(&self, index: u32, word: usize, value: u64) -> io::Result<()> {
        if !self.protection.contains(ProtFlags::WRITE) {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        self.word(index, word)?.store(value, Ordering::Release);
        Ok(())
    }

    /// Changes a word in one step: parts of it that others write meanwhile are kept.
    pub fn update(&self, index: u32, word: usize, change: impl Fn(u64) -> u64) -> io::Result<()> {
        if !self.protection.contains(ProtFlags::WRITE) {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        self.word(index, word)?.update(Ordering::AcqRel, Ordering::Acquire, change);
        Ok(())
    }

    /// The first `N` words of an element.
    pub fn element<const N: usize>(&self, index: u32) -> io::Result<[u64; N]> {
        let mut words = [0; N];
        for (position, word) in words.iter_mut().enumerate() {
            *word = self.load(index, position)?;
        }
        Ok(words)
    }

    /// Visits every element. Windows that nobody uses otherwise are unmapped again.
    pub fn scan<const N: usize>(&self, mut visit: impl FnMut(u32, [u64; N])) -> io::Result<()> {
        let per_window = (WINDOW / WORD / self.stride) as u32;
        for (number, slot) in self.windows.iter().enumerate() {
            let temporary;
            let window = match slot.get() {
                Some(window) => window,
                None => {
                    temporary = self.map_window(number)?;
                    &temporary
                }
            };
            let first = number as u32 * per_window;
            for index in first..self.entries.min(first + per_window) {
                let mut words = [0; N];
                for (position, word) in words.iter_mut().enumerate() {
                    let offset = (index - first) as usize * self.stride + position;
                    *word = window.word(offset).ok_or(io::ErrorKind::InvalidInput)?.load(Ordering::Acquire);
                }
                visit(index, words);
            }
        }
        Ok(())
    }

    fn word(&self, index: u32, word: usize) -> io::Result<&AtomicU64> {
        if index >= self.entries || word >= self.stride {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let offset = index as usize * self.stride + word;
        let number = offset / (WINDOW / WORD);
        let slot = self.windows.get(number).ok_or(io::ErrorKind::InvalidInput)?;
        let window = match slot.get() {
            Some(window) => window,
            None => {
                let fresh = self.map_window(number)?;
                slot.get_or_init(|| fresh)
            }
        };
        window.word(offset % (WINDOW / WORD)).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn map_window(&self, number: usize) -> io::Result<Window> {
        let total = self.stride * WORD * self.entries as usize;
        let start = number * WINDOW;
        let length = WINDOW.min(total.saturating_sub(start));
        // SAFETY: a new shared mapping at an address of the kernel's choice; it overlaps nothing.
        let base = unsafe {
            rustix::mm::mmap(ptr::null_mut(), length, self.protection, MapFlags::SHARED, &self.fd, start as u64)
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Window { base, words: length / WORD })
    }
}

struct Window {
    base: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the memory is shared with the kernel by nature and only ever accessed through atomics.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    fn word(&self, offset: usize) -> Option<&AtomicU64> {
        // SAFETY: `offset` is inside the mapping, which is page-aligned and lives as long as `self`. Rust code only
        // accesses it through AtomicU64 (a read-only mapping is only loaded from, `store` checks).
        (offset < self.words).then(|| unsafe { self.base.add(offset).as_ref() })
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: exactly the range mmap returned; no reference to it outlives `self`.
        // Unmapping a valid range does not fail, and nothing could be done about it here.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.words * WORD) };
    }
}
