//! The one module that owns threads.
//!
//! A [`Team`] is a view on a rayon pool. Work is cut into tasks whose cut never changes results (the invariance rule).
//! Each worker starts with a run of tasks of its own, and draws from the runs of others when it is done, so uneven ones
//! balance. The calling thread is always a worker. Called from inside any rayon pool, a team uses that pool's threads
//! instead of its own: two pools are never busy for one call, and nothing waits on a pool that waits back. Threads that
//! have worked stay awake for a while (`team/region.rs`), and between the calls of a thread that has
//! [entered](Team::enter).

mod region;

use std::{
    fmt,
    marker::PhantomData,
    ops::Range,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use rayon::{ThreadPool, ThreadPoolBuilder};
use region::ParallelRegion;
pub(crate) use region::while_waiting;

/// Below this much work (flops or bytes) a call is cheaper than waking another thread (a few microseconds).
const SOLO_WORK: usize = 1 << 19;

/// The same where the others are awake (some tenths of a microsecond).
const ENTERED_SOLO_WORK: usize = 1 << 16;

/// Tasks per thread where a kernel chooses the cut: enough to even out a late or slow thread.
pub(crate) const TASKS_PER_THREAD: usize = 4;

/// The most threads of a team: more than any machine has cores are a slip, and starting them may well succeed.
pub const MAX_THREADS: usize = 4096;

/// Most runs of tasks that a call is cut into, one for each worker.
const MAX_RUNS: usize = 16;

/// In a cache line of its own: others do not wait for it.
#[repr(align(64))]
struct Counter(AtomicUsize);

/// Threads that share the work of one call.
#[derive(Clone)]
pub struct Team(PoolKind);

impl fmt::Debug for Team {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Team({})", self.threads())
    }
}

#[derive(Clone)]
enum PoolKind {
    Single,
    Global,
    Pool(Arc<ThreadPool>, Arc<ParallelRegion>),
}

/// The region of rayon's global pool.
static GLOBAL: LazyLock<Arc<ParallelRegion>> =
    LazyLock::new(|| Arc::new(ParallelRegion::new(rayon::current_num_threads(), true)));

impl Team {
    /// On rayon's global pool (`RAYON_NUM_THREADS`, else one thread per CPU).
    pub fn global() -> Team {
        Team(PoolKind::Global)
    }

    /// On a pool of its own with `n` threads, at most [`MAX_THREADS`]; 0 means one per CPU.
    ///
    /// # Errors
    /// For more, and if the threads cannot be started.
    pub fn with_threads(n: usize) -> Result<Team, TeamError> {
        if n == 1 {
            return Ok(Team::single());
        }
        if n > MAX_THREADS {
            return Err(TeamError(format!("{n} of them were asked for, and at most {MAX_THREADS} are started")));
        }
        let pool = ThreadPoolBuilder::new().num_threads(n).build().map_err(|e| TeamError(e.to_string()))?;
        Ok(Team::on(Arc::new(pool)))
    }

    /// On a pool that exists already.
    pub fn on(pool: Arc<ThreadPool>) -> Team {
        let region = ParallelRegion::new(pool.current_num_threads(), true);
        Team(PoolKind::Pool(pool, Arc::new(region)))
    }

    /// The calling thread alone.
    pub fn single() -> Team {
        Team(PoolKind::Single)
    }

    /// How many threads a call made here may use.
    pub fn threads(&self) -> usize {
        let here = || rayon::current_num_threads();
        match &self.0 {
            PoolKind::Single => 1,
            _ if ParallelRegion::entered() => ParallelRegion::with(|region| region.map_or(1, ParallelRegion::workers)),
            PoolKind::Global => here(),
            PoolKind::Pool(pool, _) if inside_a_pool() => pool.current_num_threads().min(here()),
            PoolKind::Pool(pool, _) => pool.current_num_threads(),
        }
    }

    /// Runs `f` on this thread while the other threads of the team stay awake for the calls that it makes. Enter once
    /// per forward. Inside an entered call or any rayon pool, and for a single thread, it just calls `f`.
    pub fn enter<R>(&self, f: impl FnOnce() -> R) -> R {
        let threads = self.threads();
        if threads <= 1 || ParallelRegion::entered() || inside_a_pool() {
            return f();
        }
        let spawn = |region: Arc<ParallelRegion>| match &self.0 {
            PoolKind::Pool(pool, _) => pool.spawn(move || region.follow()),
            _ => rayon::spawn(move || region.follow()),
        };
        let kept = match &self.0 {
            PoolKind::Pool(_, region) => region,
            _ => &*GLOBAL,
        };
        if let Some(lead) = kept.take_lead() {
            kept.spawn_followers(spawn);
            return lead.run(f);
        }
        // Somebody else is in it.
        let another = Arc::new(ParallelRegion::new(threads, false));
        let lead = another.take_lead();
        another.spawn_followers(spawn);
        lead.map_or_else(|| unreachable!("a new region has no leader"), |lead| lead.run(f))
    }

    /// Runs `f` with no other thread in the calls that it makes.
    pub fn alone<R>(&self, f: impl FnOnce() -> R) -> R {
        if ParallelRegion::entered() {
            return f();
        }
        let region = ParallelRegion::new(1, false);
        let lead = region.take_lead();
        lead.map_or_else(|| unreachable!("a new region has no leader"), |lead| lead.run(f))
    }

    /// Runs `f(0)`, …, `f(tasks - 1)`, each exactly once, in any order. `work` is roughly the flops or bytes of the
    /// whole; where that is little, the caller does everything itself. A panic in `f` is passed on.
    pub fn run(&self, tasks: usize, work: usize, f: impl Fn(usize) + Sync) {
        let entered = ParallelRegion::entered();
        let solo = if entered { ENTERED_SOLO_WORK } else { SOLO_WORK };
        let workers = if work < solo { 1 } else { self.threads().min(tasks) };
        if workers <= 1 {
            return (0..tasks).for_each(f);
        }
        // Each worker has a run of tasks of its own, whose data follow each other in memory. When that is done, it
        // helps others.
        let (runs, arrived) = (workers.min(MAX_RUNS), AtomicUsize::new(0));
        let next = [const { Counter(AtomicUsize::new(0)) }; MAX_RUNS];
        let draw = || {
            // Relaxed: the counters only hand out numbers; the scope's end orders the results.
            let own = arrived.fetch_add(1, Ordering::Relaxed);
            for run in (own..own + runs).map(|run| run % runs) {
                let tasks = share(tasks, runs, run);
                let draw = || tasks.start + next[run].0.fetch_add(1, Ordering::Relaxed);
                while let Some(task) = Some(draw()).filter(|&task| task < tasks.end) {
                    f(task);
                }
            }
        };
        if entered {
            // With more than one worker there is a region, and it is not in a step.
            return ParallelRegion::with(|region| region.map_or_else(draw, |region| region.step(&draw)));
        }
        if !inside_a_pool() {
            return self.enter(|| ParallelRegion::with(|region| region.map_or_else(draw, |region| region.step(&draw))));
        }
        // The pool that this thread belongs to.
        rayon::in_place_scope(|scope| {
            (1..workers).for_each(|_| scope.spawn(|_| draw()));
            draw();
        });
    }

    /// Cuts `out` into runs of whole rows of `row` elements and calls `f(first_row, rows)` on each. A trailing part
    /// of a row is left alone.
    pub fn run_rows<T: Send>(&self, out: &mut [T], row: usize, work: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        let rows = out.len().checked_div(row).unwrap_or(0);
        let tasks = rows.min(self.threads() * TASKS_PER_THREAD);
        let out = Shared::new(out);
        self.run(tasks, work, |task| {
            let part = share(rows, tasks, task);
            // SAFETY: `share` cuts 0..rows into disjoint ranges, one per task, and each task runs once.
            f(part.start, unsafe { out.slice(part.start * row..part.end * row) });
        });
    }

    /// Cuts `out`, rows of `row` elements, at the rows `cuts` (ascending; the first is where the first part starts, the
    /// last where the last ends) and calls `f(index, part)` on each.
    ///
    /// # Panics
    /// If the cuts do not ascend or pass the end.
    pub fn run_parts<T: Send>(
        &self,
        out: &mut [T],
        row: usize,
        cuts: &[usize],
        work: usize,
        f: impl Fn(usize, &mut [T]) + Sync,
    ) {
        assert!(cuts.is_sorted(), "the cuts {cuts:?} do not ascend");
        let out = Shared::new(out);
        self.run(cuts.len().saturating_sub(1), work, |part| {
            // SAFETY: ranges between ascending cuts are disjoint, and each part runs once.
            f(part, unsafe { out.slice(cuts[part] * row..cuts[part + 1] * row) });
        });
    }
}

fn inside_a_pool() -> bool {
    rayon::current_thread_index().is_some()
}

/// Part `index` of `0..total` cut into `parts` that differ by at most one; so do runs of as many neighbouring parts.
pub(crate) fn share(total: usize, parts: usize, index: usize) -> Range<usize> {
    let cut = |i: usize| i * (total / parts) + i * (total % parts) / parts;
    cut(index)..cut(index + 1)
}

/// A mutable slice that several tasks write disjoint parts of.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it only workers out parts of a `&mut [T]`, and `slice` demands that they be disjoint.
unsafe impl<T: Send> Sync for Shared<'_, T> {}
// SAFETY: as a `&mut [T]`.
unsafe impl<T: Send> Send for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// # Safety
    /// No two live parts may overlap.
    ///
    /// # Panics
    /// If the range is not inside the slice.
    #[allow(clippy::mut_from_ref)] // disjointness is the caller's promise
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        // SAFETY: inside the slice by the check above, unaliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// The start, for kernels that write strided parts; same promise as [`Shared::slice`].
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.start
    }
}

/// Why a team could not be formed.
#[derive(Clone, Debug)]
pub struct TeamError(String);

impl fmt::Display for TeamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot start worker threads: {}", self.0)
    }
}

impl std::error::Error for TeamError {}

#[cfg(test)]
mod tests {
    use super::*;

    const MUCH: usize = usize::MAX;

    #[test]
    fn a_call_alone_has_one_thread() {
        let team = Team::with_threads(3).unwrap();
        let here = std::thread::current().id();
        team.alone(|| {
            assert_eq!(team.threads(), 1);
            team.run(40, MUCH, |_| assert_eq!(std::thread::current().id(), here));
        });
        assert_eq!(team.threads(), 3);
    }

    #[test]
    fn more_threads_than_any_machine_has_are_refused_at_once() {
        for threads in [MAX_THREADS + 1, 1_000_000, usize::MAX] {
            let told = Team::with_threads(threads).unwrap_err().to_string();
            assert!(told.contains(&threads.to_string()) && told.contains("at most 4096"), "{told}");
        }
    }

    #[test]
    fn every_task_runs_exactly_once() {
        for threads in 1..=3 {
            let team = Team::with_threads(threads).unwrap();
            assert_eq!(team.threads(), threads);
            for tasks in [0, 1, 2, 3, 17, 1000] {
                let runs: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                team.run(tasks, MUCH, |task| {
                    runs[task].fetch_add(1, Ordering::Relaxed);
                });
                assert!(runs.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{threads} threads, {tasks} tasks");
            }
        }
    }

    #[test]
    fn threads_have_equal_runs_of_what_is_shared() {
        for total in [0, 1, 7, 18, 36, 394] {
            for parts in [1, 2, 8, 12, 32] {
                let shares: Vec<_> = (0..parts).map(|part| share(total, parts, part)).collect();
                assert_eq!((shares[0].start, shares[parts - 1].end), (0, total));
                assert!(shares.windows(2).all(|pair| pair[0].end == pair[1].start));
                let lengths = |parts: &[Range<usize>]| parts.iter().map(Range::len).sum::<usize>();
                assert!(shares.iter().all(|share| share.len().abs_diff(total / parts) <= 1));
                if parts % 2 == 0 {
                    let halves = shares.split_at(parts / 2);
                    assert!(lengths(halves.0).abs_diff(lengths(halves.1)) <= 1, "{total} in {parts}");
                }
            }
        }
    }

    #[test]
    fn a_thread_that_is_done_helps_the_others() {
        let team = Team::with_threads(2).unwrap();
        let (late, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        team.run(40, MUCH, |task| {
            // Whoever has the first task waits for all others: they must be done by somebody else.
            if task == 0 {
                let start = std::time::Instant::now();
                while done.load(Ordering::Acquire) < 39 {
                    assert!(start.elapsed().as_secs() < 20, "nobody helps");
                    std::hint::spin_loop();
                }
                late.fetch_add(1, Ordering::Relaxed);
            } else {
                done.fetch_add(1, Ordering::Release);
            }
        });
        assert_eq!((late.into_inner(), done.into_inner()), (1, 39));
    }

    #[test]
    fn rows_are_cut_without_gap_or_overlap() {
        let team = Team::with_threads(3).unwrap();
        for rows in 0..40 {
            let mut out = vec![0usize; rows * 5 + 2];
            team.run_rows(&mut out, 5, MUCH, |first, part| {
                for (i, row) in part.chunks_exact_mut(5).enumerate() {
                    row.iter_mut().for_each(|x| *x += first + i + 1);
                }
            });
            assert!(out[..rows * 5].iter().enumerate().all(|(i, &x)| x == i / 5 + 1));
            assert_eq!(out[rows * 5..], [0, 0]);
        }
        team.run_rows(&mut [0u8; 3], 0, MUCH, |_, _| panic!("a row of nothing has no tasks"));
    }

    #[test]
    fn parts_lie_between_their_cuts() {
        let team = Team::with_threads(3).unwrap();
        let mut out = vec![0; 2 * 40];
        let cuts = [1, 1, 5, 17, 39];
        team.run_parts(&mut out, 2, &cuts, MUCH, |part, out| {
            assert_eq!(out.len(), 2 * (cuts[part + 1] - cuts[part]));
            out.iter_mut().for_each(|x| *x += part);
        });
        for (i, &x) in out.iter().enumerate() {
            let row = i / 2;
            assert_eq!(x, if (1..39).contains(&row) { cuts.iter().rposition(|&cut| cut <= row).unwrap() } else { 0 });
        }
        team.run_parts(&mut out, 2, &[], MUCH, |_, _| panic!("no cuts, no parts"));
    }

    #[test]
    #[should_panic = "do not ascend"]
    fn parts_may_not_overlap() {
        Team::single().run_parts(&mut [0; 4], 1, &[0, 3, 2], MUCH, |_, _| ());
    }

    #[test]
    fn a_team_inside_another_pool_uses_that_pool_and_returns() {
        let outer = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let team = Team::with_threads(4).unwrap();
        let sum = AtomicUsize::new(0);
        outer.scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|_| {
                    assert_eq!(team.threads(), 2);
                    team.enter(|| {
                        team.run(10, MUCH, |task| {
                            assert!(rayon::current_num_threads() == 2, "left the pool");
                            sum.fetch_add(task, Ordering::Relaxed);
                        })
                    });
                });
            }
        });
        assert_eq!(sum.into_inner(), 8 * 45);
    }

    #[test]
    fn teams_nest() {
        let team = Team::with_threads(2).unwrap();
        let sum = AtomicUsize::new(0);
        team.enter(|| {
            team.run(4, MUCH, |_| {
                team.run(4, MUCH, |task| {
                    sum.fetch_add(task, Ordering::Relaxed);
                });
            });
        });
        assert_eq!(sum.into_inner(), 4 * 6);
    }

    #[test]
    fn entered_steps_run_every_task_once_and_use_the_others() {
        let team = Team::with_threads(3).unwrap();
        let helped = AtomicUsize::new(0);
        let leader = std::thread::current().id();
        team.enter(|| {
            assert_eq!(team.threads(), 3);
            for step in 0..2_000 {
                if step % 500 == 0 {
                    // Long enough for followers to go to sleep.
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                let runs: [AtomicUsize; 7] = Default::default();
                team.run(runs.len(), MUCH, |task| {
                    runs[task].fetch_add(1, Ordering::Relaxed);
                    helped.fetch_add((std::thread::current().id() != leader).into(), Ordering::Relaxed);
                    if step % 500 < 2 {
                        std::thread::sleep(std::time::Duration::from_micros(300));
                    }
                });
                assert!(runs.iter().all(|n| n.load(Ordering::Relaxed) == 1), "step {step}");
            }
            assert_eq!(Team::single().threads(), 1);
        });
        assert!(helped.into_inner() > 0, "the leader was left alone");
    }

    #[test]
    fn followers_wait_for_the_next_computation_but_not_for_ever() {
        let team = Team::with_threads(3).unwrap();
        let PoolKind::Pool(_, region) = &team.0 else { panic!("{team:?} has no pool") };
        let stayed = (0..200).filter(|_| {
            // All three have come, and whoever would not wait has left long before this looks.
            let all = std::sync::Barrier::new(3);
            team.enter(|| {
                team.run(3, MUCH, |_| {
                    all.wait();
                })
            });
            let end = std::time::Instant::now();
            while end.elapsed().as_micros() < 30 {
                std::hint::spin_loop();
            }
            region.spawned() == 2
        });
        // A machine with other work wakes a thread when it likes, so few are enough.
        assert!(stayed.count() > 2, "nobody waited");
        let start = std::time::Instant::now();
        while region.spawned() > 0 {
            assert!(start.elapsed().as_secs() < 60, "{} followers do not leave", region.spawned());
            std::thread::yield_now();
        }
        let sum = AtomicUsize::new(0);
        team.run(10, MUCH, |task| {
            sum.fetch_add(task, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }

    #[test]
    fn many_threads_may_enter_one_team() {
        let team = Team::with_threads(2).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let sum = AtomicUsize::new(0);
                        team.enter(|| {
                            for _ in 0..20 {
                                team.run(5, MUCH, |task| {
                                    sum.fetch_add(task, Ordering::Relaxed);
                                });
                            }
                        });
                        assert_eq!(sum.into_inner(), 200);
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_in_an_entered_step_reaches_the_caller_and_spoils_nothing() {
        let team = Team::with_threads(2).unwrap();
        for bad in 0..40 {
            let run = || team.enter(|| team.run(40, MUCH, |task| assert_ne!(task, bad)));
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
        }
        let sum = AtomicUsize::new(0);
        team.enter(|| {
            team.run(4, MUCH, |task| {
                sum.fetch_add(task, Ordering::Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 6);
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let team = Team::with_threads(2).unwrap();
        let run = || team.run(8, MUCH, |task| assert_ne!(task, 5));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    }
}
