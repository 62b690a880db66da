//! Threads that stay awake between the parallel steps of one computation, and from one computation to the next.
//!
//! A forward pass is hundreds of short steps. Waking a thread for each costs microseconds, on a virtual machine up to half a
//! millisecond; a thread that spins is there in a fraction of one. So a thread leads, the others follow: they watch one
//! word, join the step that it announces, and leave the step before its leader goes on. A follower that saw nothing for a
//! while sleeps until the next step wakes it, or, when nobody leads any more, goes back to its pool: what follows at once,
//! as the next token does, finds it awake. A leader never waits for followers that did not come: it does what is left
//! itself.

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

/// One more step announced; see [`Session::word`].
const STEP: u64 = 1 << 32;
/// The step may be joined.
const OPEN: u64 = 1 << 31;
/// Somebody leads.
const LED: u64 = 1 << 30;
/// One more follower that has been called and has not left.
const CALLED: u64 = 1 << 15;
/// Followers in the step.
const INSIDE: u64 = CALLED - 1;

/// What followers are told to do: draw tasks until there are none.
type Job<'a> = &'a (dyn Fn() + Sync);

/// A leader and its followers, one computation after the other.
pub(super) struct Session {
    hands: usize,
    /// Whether followers wait for another leader.
    kept: bool,
    /// Steps announced (upper half), whether the last is [`OPEN`], whether somebody has the lead ([`LED`]), how many followers
    /// have been [`CALLED`], and how many are [`INSIDE`]. One word, so that a follower joins exactly the step it has seen,
    /// and leaves only while nobody leads.
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

// SAFETY: all fields but `leading` are shared safely, and `leading` is touched only by who has the lead, which is handed over
// by `word`.
unsafe impl Sync for Session {}

thread_local!(static CURRENT: Cell<*const Session> = const { Cell::new(ptr::null()) });

/// The lead of a session, which ends with it.
pub(super) struct Lead<'a>(&'a Session);

thread_local!(
    /// What is fetched while this thread waits: the rest of it.
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

impl Session {
    /// Of so many threads, the leader included; `kept` for more than one computation or not.
    pub(super) fn new(hands: usize, kept: bool) -> Self {
        assert!(hands < INSIDE as usize, "{hands} threads");
        Self {
            hands,
            kept,
            word: AtomicU64::new(0),
            job: Mutex::new(None),
            leading: Cell::new(false),
            asleep: AtomicUsize::new(0),
            bed: Default::default(),
            panicked: AtomicBool::new(false),
            panic: Mutex::default(),
        }
    }

    /// The lead, unless somebody has it.
    pub(super) fn take_lead(&self) -> Option<Lead<'_>> {
        // Acquires what the last leader has released.
        let free = self.word.fetch_or(LED, Ordering::AcqRel) & LED == 0;
        // A lead that is not had must not end.
        free.then(|| Lead(self))
    }

    /// Has `spawn` call [`follow`](Self::follow) for the followers that are not there; only who leads may.
    pub(super) fn call(self: &Arc<Self>, spawn: impl Fn(Arc<Self>)) {
        for _ in self.called()..self.hands - 1 {
            self.word.fetch_add(CALLED, Ordering::AcqRel);
            spawn(self.clone());
        }
    }

    /// Followers that are there, or on their way.
    pub(super) fn called(&self) -> usize {
        (self.word.load(Ordering::Acquire) % LED / CALLED) as usize
    }

    /// The calling thread's session, given to `f` unless it is busy with a step.
    pub(super) fn with<R>(f: impl FnOnce(Option<&Session>) -> R) -> R {
        let current = CURRENT.get();
        // SAFETY: `Lead` sets it for the time that it borrows the session, on this thread.
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
                    if looks.is_multiple_of(1 << 12) { thread::yield_now() } else { wait() }
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
            } else if self.word.compare_exchange(word, word - CALLED, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
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

impl Lead<'_> {
    /// Runs `f` with this session as its thread's own.
    pub(super) fn run<R>(self, f: impl FnOnce() -> R) -> R {
        CURRENT.set(self.0);
        f()
    }
}

/// Whatever happens, the thread forgets the session, and another may lead.
impl Drop for Lead<'_> {
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
        let session = Session::new(2, true);
        let lead = session.take_lead();
        assert!(lead.is_some());
        for _ in 0..2 {
            assert!(session.take_lead().is_none());
        }
        assert!(!Session::entered());
        lead.unwrap().run(|| assert!(Session::entered() && session.take_lead().is_none()));
        assert!(!Session::entered() && session.take_lead().is_some());
    }
}
