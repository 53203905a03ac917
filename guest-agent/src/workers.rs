//! Threads that serve requests, which are kept for later ones: under emulation, the memory mappings
//! for the start and the end of a thread cost as much as a hundred system calls, and a build makes
//! thousands of requests.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The maximum number of idle threads: as many as there commonly are requests at the same time.
const IDLE_MAX: usize = 8;

/// The stack size of a thread, in bytes. The deepest use is a walk through a tree, which keeps its
/// levels on the heap.
const STACK_BYTES: usize = 256 * 1024;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    idle: usize,
}

/// The pool of threads.
#[derive(Clone, Default)]
pub(crate) struct Workers(Arc<(Mutex<State>, Condvar)>);

impl fmt::Debug for Workers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Workers").field("idle", &self.lock().idle).finish_non_exhaustive()
    }
}

impl Workers {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a job immediately, on an idle thread or on a new one.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut state = self.lock();
        if state.jobs.len() < state.idle {
            state.jobs.push_back(Box::new(job));
            drop(state);
            self.0.1.notify_one();
            return Ok(());
        }
        drop(state);
        let workers = self.clone();
        let thread = thread::Builder::new().name("worker".into()).stack_size(STACK_BYTES);
        thread.spawn(move || workers.work(Box::new(job))).map(drop)
    }

    fn work(&self, first: Job) {
        let mut job = first;
        loop {
            job();
            let mut state = self.lock();
            if state.idle >= IDLE_MAX {
                return;
            }
            state.idle += 1;
            job = loop {
                match state.jobs.pop_front() {
                    Some(next) => break next,
                    None => state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner),
                }
            };
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::mpsc::channel;

    #[test]
    fn jobs_never_wait_for_each_other_and_threads_are_used_again() {
        let workers = Workers::default();
        let (send, receive) = channel();
        let barrier = Arc::new(std::sync::Barrier::new(20));
        for _ in 0..20 {
            let (send, barrier) = (send.clone(), Arc::clone(&barrier));
            workers
                .run(move || {
                    barrier.wait();
                    send.send(thread::current().id()).unwrap();
                })
                .unwrap();
        }
        let first: HashSet<_> = receive.iter().take(20).collect();
        assert_eq!(first.len(), 20);
        // Each thread holds the workers until it ends, so this counts the threads.
        let threads = || Arc::strong_count(&workers.0) - 1;
        while threads() > IDLE_MAX || workers.lock().idle < IDLE_MAX {
            thread::yield_now();
        }
        workers.run(move || send.send(thread::current().id()).unwrap()).unwrap();
        assert!(first.contains(&receive.recv().unwrap()));
    }
}
