//! Runs work on all cores, with results in the order of submission.
//!
//! Each writer has a pool; the writer's own thread submits work and takes results, so only the pure
//! function runs on the pool's threads.

use std::{
    collections::VecDeque,
    num::NonZero,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use crate::{OutputError, Result};

/// Maximum pool threads: beyond this, the writing thread is the bottleneck.
const MAX_THREADS: usize = 16;

type Job<I, O> = (I, SyncSender<O>);

/// Applies a function on several threads, with results in order.
pub(crate) struct Ordered<I, O> {
    jobs: Option<SyncSender<Job<I, O>>>,
    waiting: VecDeque<Receiver<O>>,
    depth: usize,
    threads: Vec<JoinHandle<()>>,
}

impl<I: Send + 'static, O: Send + 'static> Ordered<I, O> {
    /// Starts one thread per core.
    pub(crate) fn new(work: impl Fn(I) -> O + Send + Sync + 'static) -> Self {
        let count = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
        // Two items per thread keep each thread busy while results are written.
        let depth = count * 2;
        let (jobs, receiver) = sync_channel::<Job<I, O>>(depth);
        let receiver = Arc::new(Mutex::new(receiver));
        let work = Arc::new(work);
        let start = |_| {
            let (receiver, work) = (Arc::clone(&receiver), Arc::clone(&work));
            std::thread::spawn(move || {
                while let Some((input, result)) = take(&receiver) {
                    // If the writer has stopped, the result is not needed.
                    let _ = result.send(work(input));
                }
            })
        };
        let threads = (0..count).map(start).collect();
        Self { jobs: Some(jobs), waiting: VecDeque::new(), depth, threads }
    }

    /// Submits work; returns the oldest result if enough is in flight.
    pub(crate) fn push(&mut self, input: I) -> Result<Option<O>> {
        let (sender, receiver) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or(OutputError::WorkerLost)?;
        jobs.send((input, sender)).map_err(|_| OutputError::WorkerLost)?;
        self.waiting.push_back(receiver);
        if self.waiting.len() >= self.depth { self.pop() } else { Ok(None) }
    }

    /// The oldest pending result, or `None` if there is no work left.
    pub(crate) fn pop(&mut self) -> Result<Option<O>> {
        match self.waiting.pop_front() {
            None => Ok(None),
            Some(result) => result.recv().map(Some).map_err(|_| OutputError::WorkerLost),
        }
    }
}

fn take<T>(queue: &Mutex<Receiver<T>>) -> Option<T> {
    queue.lock().ok()?.recv().ok()
}

impl<I, O> Drop for Ordered<I, O> {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic was reported already as a missing result.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order() {
        let mut pool = Ordered::new(|n: u64| {
            if n.is_multiple_of(7) {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            n * n
        });
        let mut results = Vec::new();
        for n in 0..100 {
            results.extend(pool.push(n).unwrap());
        }
        while let Some(result) = pool.pop().unwrap() {
            results.push(result);
        }
        assert_eq!(results, (0..100).map(|n| n * n).collect::<Vec<u64>>());
    }

    #[test]
    fn a_panic_is_an_error_for_the_writer() {
        let mut pool = Ordered::new(|n: u64| {
            assert!(n != 3, "as the test wants");
            n
        });
        let outcome = (0..8).try_for_each(|n| pool.push(n).map(|_| ()));
        let drained = std::iter::from_fn(|| pool.pop().transpose()).collect::<Result<Vec<_>>>();
        assert!(outcome.is_err() || drained.is_err());
    }
}
