//! What a watched thread costs: its heap allocations, inside and outside the pump's turns, and its
//! `io_uring_enter` calls, whichever ring they are for.
//!
//! Allocations are seen by the test's global allocator. Enters are seen because every ring library
//! goes through libc's `syscall`, and this binary defines that symbol itself.

#![expect(unsafe_code, reason = "an allocator, and a system call by hand")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::c_long;
use std::sync::atomic::{AtomicU64, Ordering};

use corelane_shard::pump::TurnObserver;

/// Counts of one watched thread.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    inside: AtomicU64,
    outside: AtomicU64,
    enters: AtomicU64,
}

/// The counts at one moment, or between two.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) allocations_inside: u64,
    pub(crate) allocations_outside: u64,
    pub(crate) enters: u64,
}

impl Counts {
    pub(crate) fn read(&self) -> Tally {
        Tally {
            allocations_inside: self.inside.load(Ordering::Relaxed),
            allocations_outside: self.outside.load(Ordering::Relaxed),
            enters: self.enters.load(Ordering::Relaxed),
        }
    }
}

impl std::ops::Sub for Tally {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            allocations_inside: self.allocations_inside - before.allocations_inside,
            allocations_outside: self.allocations_outside - before.allocations_outside,
            enters: self.enters - before.enters,
        }
    }
}

thread_local! {
    /// Set from a thread's first turn on. Neither needs a destructor, so both can be read while
    /// the thread allocates.
    static WATCHED: Cell<Option<&'static Counts>> = const { Cell::new(None) };
    static IN_TURN: Cell<bool> = const { Cell::new(false) };
}

/// Counts for the thread whose pump it observes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counting(pub(crate) &'static Counts);

impl TurnObserver for Counting {
    fn entering(&mut self) {
        WATCHED.set(Some(self.0));
        IN_TURN.set(true);
    }

    fn leaving(&mut self) {
        IN_TURN.set(false);
    }
}

struct CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

fn allocated() {
    if let Some(counts) = WATCHED.get() {
        let count = if IN_TURN.get() { &counts.inside } else { &counts.outside };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocated();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        allocated();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        allocated();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Takes the place of libc's function for everything in this binary.
///
/// # Safety
/// As for libc's: the arguments are what system call `number` wants. Those that it does not take
/// are handed on unread.
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    number: c_long,
    a: c_long,
    b: c_long,
    c: c_long,
    d: c_long,
    e: c_long,
    f: c_long,
) -> c_long {
    if number == libc::SYS_io_uring_enter
        && let Some(counts) = WATCHED.get()
    {
        counts.enters.fetch_add(1, Ordering::Relaxed);
    }
    let result: c_long;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the calling convention of Linux on x86-64; the call itself is the caller's.
    unsafe {
        std::arch::asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") a,
            in("rsi") b,
            in("rdx") c,
            in("r10") d,
            in("r8") e,
            in("r9") f,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the calling convention of Linux on AArch64; the call itself is the caller's.
    unsafe {
        std::arch::asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b,
            in("x2") c,
            in("x3") d,
            in("x4") e,
            in("x5") f,
            options(nostack),
        );
    }
    if (-4095..0).contains(&result) {
        // SAFETY: takes nothing and always returns.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: the address of this thread's errno, always valid.
        unsafe { *errno = -result as i32 };
        return -1;
    }
    result
}

/// Enters a ring that does not exist: refused, and an enter all the same.
pub(crate) fn enter_for_nothing() {
    // SAFETY: descriptor -1 is refused before any other argument is looked at.
    let refused = unsafe { libc::syscall(libc::SYS_io_uring_enter, -1, 0, 0, 0, 0, 0) };
    assert_eq!(refused, -1, "no ring has this descriptor");
}
