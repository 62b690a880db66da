//! A parallel region: threads that stay awake between the parallel steps of one computation, and from one computation
//! to the next.
//!
//! A forward pass is hundreds of short steps. Waking a thread for each costs microseconds, and up to half a millisecond
//! on a virtual machine. A thread that spins is there in a fraction of a microsecond. So one thread leads and the
//! others follow. Followers watch one word, join the step that it announces, and leave the step before the leader goes
//! on. A follower that saw nothing for a while sleeps until the next step wakes it. When nobody leads any more, it
//! stays for a while, so that the next computation (the next token) finds it awake, and then goes back to its pool. A
//! leader never waits for followers that did not come: it does the remaining tasks itself.

use std::{
    any::Any,
    cell::Cell,
    hint, mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
};

/// Looks at the word before a follower sleeps or leaves: some tenths of a millisecond.
const SPINS: u32 = 1 << 14;

/// One more step announced; see [`ParallelRegion::word`].
const STEP: u64 = 1 << 32;
/// The step may be joined.
const OPEN: u64 = 1 << 31;
/// Somebody leads.
const LED: u64 = 1 << 30;
/// One more follower that has been spawned and has not left.
const SPAWNED: u64 = 1 << 15;
/// Followers in the step.
const INSIDE: u64 = SPAWNED - 1;

/// The job of followers: draw tasks until there are none.
type Job<'a> = &'a (dyn Fn() + Sync);

/// A leader and its followers, one computation after the other.
pub(super) struct ParallelRegion {
    workers: usize,
    /// Whether followers wait for another leader.
    kept: bool,
    /// Steps announced (upper half), whether the last is [`OPEN`], whether somebody has the lead ([`LED`]), how many
    /// followers have been [`SPAWNED`], and how many are [`INSIDE`]. One word, so that a follower joins exactly the
    /// step it has seen, and leaves only while nobody leads.
    word: AtomicU64,
    /// The job of the open step; written while no follower is inside.
    job: Mutex<Option<Job<'static>>>,
    leading: Cell<bool>,
    /// Followers that wait for a new word, and the condition that wakes them.
    asleep: AtomicUsize,
    parking_lot: (Mutex<()>, Condvar),
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: all fields but `leading` are shared safely, and `leading` is touched only by the leader's thread; the lead is
// handed over by `word`.
unsafe impl Sync for ParallelRegion {}

thread_local!(static CURRENT: Cell<*const ParallelRegion> = const { Cell::new(ptr::null()) });

/// The lead of a region, which ends with it.
pub(super) struct Leader<'a>(&'a ParallelRegion);

thread_local!(
    /// The rest of the bytes that are fetched while this thread waits.
    static AHEAD: Cell<(*const u8, usize)> = const { Cell::new((ptr::null(), 0)) }
);

/// Has this thread fetch so many bytes into its cache, line by line, while it waits for others. They need not exist.
pub(crate) fn while_waiting(start: *const u8, bytes: usize) {
    AHEAD.set((start, bytes));
}

/// A moment between looks at the word.
fn wait() {
    const LINE: usize = 64;
    let (start, bytes) = AHEAD.get();
    if bytes < LINE || cfg!(not(target_arch = "x86_64")) {
        return hint::spin_loop();
    }
    AHEAD.set((start.wrapping_add(LINE), bytes - LINE));
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, for any address; SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(start.cast());
    }
}

impl ParallelRegion {
    /// A region of so many workers, the leader included; `kept` for more than one computation or not.
    pub(super) fn new(workers: usize, kept: bool) -> Self {
        assert!(workers < INSIDE as usize, "{workers} threads");
        Self {
            workers,
            kept,
            word: AtomicU64::new(0),
            job: Mutex::new(None),
            leading: Cell::new(false),
            asleep: AtomicUsize::new(0),
            parking_lot: Default::default(),
            panicked: AtomicBool::new(false),
            panic: Mutex::default(),
        }
    }

    /// The lead, unless somebody has it.
    pub(super) fn take_lead(&self) -> Option<Leader<'_>> {
        // Acquires the writes that the last leader has released.
        let free = self.word.fetch_or(LED, Ordering::AcqRel) & LED == 0;
        // A `Leader` that was never made must not end the lead when it is dropped.
        free.then(|| Leader(self))
    }

    /// Has `spawn` call [`follow`](Self::follow) for the followers that are not there. Only the leader may.
    pub(super) fn spawn_followers(self: &Arc<Self>, spawn: impl Fn(Arc<Self>)) {
        for _ in self.spawned()..self.workers - 1 {
            self.word.fetch_add(SPAWNED, Ordering::AcqRel);
            spawn(self.clone());
        }
    }

    /// Followers that are there, or on their way.
    pub(super) fn spawned(&self) -> usize {
        (self.word.load(Ordering::Acquire) % LED / SPAWNED) as usize
    }

    /// The calling thread's region, given to `f` unless it is busy with a step.
    pub(super) fn with<R>(f: impl FnOnce(Option<&ParallelRegion>) -> R) -> R {
        let current = CURRENT.get();
        // SAFETY: `Leader` sets it for the time that it borrows the region, on this thread.
        let region = unsafe { current.as_ref() };
        f(region.filter(|region| !region.leading.get()))
    }

    /// Whether the calling thread leads a region.
    pub(super) fn entered() -> bool {
        !CURRENT.get().is_null()
    }

    pub(super) fn workers(&self) -> usize {
        self.workers
    }

    /// Runs `job` on this thread and, at the same time, on the followers that are there.
    pub(super) fn step(&self, job: Job<'_>) {
        /// Nobody is inside when this is dropped, even when `job` panics: the job may end then.
        struct Step<'a>(&'a ParallelRegion);
        impl Drop for Step<'_> {
            fn drop(&mut self) {
                let region = self.0;
                region.word.fetch_and(!OPEN, Ordering::AcqRel);
                let mut looks = 0u32;
                while region.word.load(Ordering::Acquire) & INSIDE > 0 {
                    looks += 1;
                    // A follower lost its core: let it have this one.
                    if looks.is_multiple_of(1 << 12) { thread::yield_now() } else { wait() }
                }
                *lock(&region.job) = None;
                region.leading.set(false);
            }
        }
        // SAFETY: followers use the job only inside a step, and `Step` waits for the last of them before this function
        // ends, so the longer lifetime is never relied on.
        let job_for_followers = unsafe { mem::transmute::<Job<'_>, Job<'static>>(job) };
        *lock(&self.job) = Some(job_for_followers);
        self.leading.set(true);
        let step = Step(self);
        self.word.fetch_add(STEP, Ordering::AcqRel);
        self.word.fetch_or(OPEN, Ordering::AcqRel);
        self.wake();
        job();
        drop(step);
        if self.panicked.swap(false, Ordering::AcqRel)
            && let Some(panic) = lock(&self.panic).take()
        {
            resume_unwind(panic);
        }
    }

    /// A follower's life: until it has seen nothing to do for a while and nobody leads.
    pub(super) fn follow(&self) {
        let mut done = 0; // the step last joined
        let mut looks = 0;
        loop {
            let word = self.word.load(Ordering::Acquire);
            if word & OPEN > 0 && word / STEP != done {
                let joined = self.word.compare_exchange(word, word + 1, Ordering::AcqRel, Ordering::Relaxed);
                if joined.is_ok() {
                    done = word / STEP;
                    self.take_part();
                    self.word.fetch_sub(1, Ordering::AcqRel);
                    looks = 0;
                }
                continue;
            }
            let led = word & LED > 0;
            looks += 1;
            if looks < SPINS && (led || self.kept) {
                wait();
            } else if led {
                self.sleep(word);
                looks = 0;
            } else if self.word.compare_exchange(word, word - SPAWNED, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }

    fn take_part(&self) {
        let job = *lock(&self.job);
        if let Some(job) = job
            && let Err(panic) = catch_unwind(AssertUnwindSafe(job))
        {
            *lock(&self.panic) = Some(panic);
            self.panicked.store(true, Ordering::Release);
        }
    }

    /// Sleeps until [`wake`](Self::wake), unless the word has changed.
    fn sleep(&self, seen: u64) {
        let (mutex, condition) = &self.parking_lot;
        let guard = lock(mutex);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        // Sequentially consistent with `wake`: either it sees a sleeper, or the sleeper sees the new word.
        let guard = condition.wait_while(guard, |()| self.word.load(Ordering::SeqCst) == seen);
        self.asleep.fetch_sub(1, Ordering::SeqCst);
        drop(guard.unwrap_or_else(PoisonError::into_inner));
    }

    fn wake(&self) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) > 0 {
            // A follower that has seen the old word waits by the time that this thread has the lock.
            drop(lock(&self.parking_lot.0));
            self.parking_lot.1.notify_all();
        }
    }
}

impl Leader<'_> {
    /// Runs `f` with this region as its thread's own.
    pub(super) fn run<R>(self, f: impl FnOnce() -> R) -> R {
        CURRENT.set(self.0);
        f()
    }
}

/// Whatever happens, the thread forgets the region, and another may lead.
impl Drop for Leader<'_> {
    fn drop(&mut self) {
        CURRENT.set(ptr::null());
        self.0.word.fetch_and(!LED, Ordering::AcqRel);
        self.0.wake();
    }
}

/// No one panics while holding one of these.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_leads_until_it_lets_go() {
        let region = ParallelRegion::new(2, true);
        let lead = region.take_lead();
        assert!(lead.is_some());
        for _ in 0..2 {
            assert!(region.take_lead().is_none());
        }
        assert!(!ParallelRegion::entered());
        lead.unwrap().run(|| assert!(ParallelRegion::entered() && region.take_lead().is_none()));
        assert!(!ParallelRegion::entered() && region.take_lead().is_some());
    }
}
