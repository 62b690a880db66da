//! Threads that stay awake between the parallel steps of one computation.
//!
//! A forward pass is hundreds of short steps. Waking a thread for each costs microseconds; a thread that spins is there in
//! a fraction of one. So the thread that enters a session leads, the others follow: they watch one word, join the step
//! that it announces, and leave the step before its leader goes on. A follower that saw nothing for a while sleeps
//! until the next step wakes it. A leader never waits for followers that did not come: it does what is left itself.

use std::{
    any::Any,
    cell::Cell,
    hint, mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    ptr,
    sync::{
        Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, ThreadId},
};

/// Looks at the word before a follower sleeps: some tens of microseconds.
const SPINS: u32 = 1 << 14;

/// One more step announced; see [`Session::word`].
const STEP: u64 = 1 << 32;
/// The step may be joined.
const OPEN: u64 = 1 << 31;
/// No step follows.
const CLOSED: u64 = 1 << 30;
/// Followers in the step.
const INSIDE: u64 = CLOSED - 1;

/// What followers are told to do: draw tasks until there are none.
type Job<'a> = &'a (dyn Fn() + Sync);

/// One entered computation: shared by reference between the leader, on whose stack it lives, and its followers.
pub(super) struct Session {
    hands: usize,
    leader: ThreadId,
    /// Steps announced (upper half), whether the last is [`OPEN`], whether all are over ([`CLOSED`]), and how many followers
    /// are [`INSIDE`]. One word, so that a follower joins exactly the step it has seen.
    word: AtomicU64,
    /// The job of the open step; written while no follower is inside.
    job: Mutex<Option<Job<'static>>>,
    leading: Cell<bool>,
    /// Followers that wait for a new word, and what wakes them.
    asleep: AtomicUsize,
    bed: (Mutex<()>, Condvar),
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: all fields but `leading` are shared safely, and `leading` is touched by the leader's thread alone.
unsafe impl Sync for Session {}

thread_local!(static CURRENT: Cell<*const Session> = const { Cell::new(ptr::null()) });

impl Session {
    pub(super) fn new(hands: usize) -> Self {
        Self {
            hands,
            leader: thread::current().id(),
            word: AtomicU64::new(0),
            job: Mutex::new(None),
            leading: Cell::new(false),
            asleep: AtomicUsize::new(0),
            bed: Default::default(),
            panicked: AtomicBool::new(false),
            panic: Mutex::default(),
        }
    }

    /// Runs `f` with this session as its thread's own, and closes the session.
    pub(super) fn lead<R>(&self, f: impl FnOnce() -> R) -> R {
        /// Whatever happens, the thread forgets the session, and followers leave.
        struct End<'a>(&'a Session);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                CURRENT.set(ptr::null());
                self.0.word.fetch_or(CLOSED, Ordering::Release);
                self.0.wake();
            }
        }
        let _end = End(self);
        CURRENT.set(self);
        f()
    }

    /// The calling thread's session, given to `f` unless it is busy with a step.
    pub(super) fn with<R>(f: impl FnOnce(Option<&Session>) -> R) -> R {
        let current = CURRENT.get();
        // SAFETY: `lead` sets it for the time that it borrows the session, on this thread.
        let session = unsafe { current.as_ref() };
        f(session.filter(|session| !session.leading.get()))
    }

    /// Whether the calling thread leads a session.
    pub(super) fn entered() -> bool {
        !CURRENT.get().is_null()
    }

    pub(super) fn hands(&self) -> usize {
        self.hands
    }

    /// Runs `job` on this thread and, at the same time, on the followers that are there.
    pub(super) fn step(&self, job: Job<'_>) {
        /// Nobody is inside when this is dropped, even when `job` panics: the job may end then.
        struct Step<'a>(&'a Session);
        impl Drop for Step<'_> {
            fn drop(&mut self) {
                let session = self.0;
                session.word.fetch_and(!OPEN, Ordering::AcqRel);
                let mut looks = 0u32;
                while session.word.load(Ordering::Acquire) & INSIDE > 0 {
                    looks += 1;
                    // A follower lost its core: let it have this one.
                    if looks.is_multiple_of(1 << 12) { thread::yield_now() } else { hint::spin_loop() }
                }
                *lock(&session.job) = None;
                session.leading.set(false);
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

    /// A follower's life: until the session is closed. Returns at once on the leader's own thread.
    pub(super) fn follow(&self) {
        if thread::current().id() == self.leader {
            return;
        }
        let mut done = 0; // the step last joined
        let mut looks = 0;
        loop {
            let word = self.word.load(Ordering::Acquire);
            if word & CLOSED > 0 {
                return;
            }
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
            looks += 1;
            if looks < SPINS {
                hint::spin_loop();
            } else {
                self.sleep(word);
                looks = 0;
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
        let (mutex, condition) = &self.bed;
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
            // Who has seen the old word waits by the time that the lock is had.
            drop(lock(&self.bed.0));
            self.bed.1.notify_all();
        }
    }
}

/// No one panics while holding one of these.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
