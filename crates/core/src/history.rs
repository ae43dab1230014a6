//! Histories of the functions that are called: which of them block, and therefore where each call starts.
//!
//! A function is called *inline*, on the dispatcher's stack, or *beside* it, on another thread. Inline is
//! nearly free, but a function that blocks there makes the dispatcher's role move. So a function starts
//! beside until it has returned a few times in a row without having waited. It is called inline from then
//! on, until it blocks, which is a *mistake*; after each mistake it takes more successes before the function
//! is called inline again. A function that blocks once in a hundred calls therefore makes the role move less
//! than once in a thousand.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// How many times in a row an unknown function has to return without waiting, to be called inline.
const N_SUCCESSES_AT_FIRST: u32 = 8;
/// The factor by which each mistake raises that number.
const N_SUCCESSES_FACTOR: u32 = 8;
/// The most successes in a row that are asked for.
const N_SUCCESSES_MAX: u32 = 1 << 24;
/// A mistake after this many inline calls or more is rare enough: it does not raise the number.
const N_CALLS_PER_MISTAKE: u64 = 1000;
/// How many functions are remembered; with one more, all others are forgotten together.
const N_REMEMBERED_MAX: usize = 4096;

/// Where a call starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// On the dispatcher's stack.
    Inline,
    /// On another thread.
    Beside,
}

/// Identifies a function, and the pool in which it is called.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EntryPoint {
    /// The address of the function's code.
    pub code: usize,
    /// The address of the pool; zero: none.
    pub pool: usize,
}

/// What a function has done so far.
#[derive(Debug, Clone, Copy)]
pub struct History {
    is_inline: bool,
    /// Where the last call had to start, regardless of the history; `None`: where the history said.
    forced_start: Option<Start>,
    /// How many calls in a row have returned beside the dispatcher without waiting.
    n_successes: u32,
    /// How many of these it takes until the function is called inline.
    n_successes_needed: u32,
    /// How many calls have started inline since the function is called inline.
    n_inline_in_row: u64,
    n_inline: u64,
    n_beside: u64,
    n_mistakes: u64,
}

impl Default for History {
    fn default() -> Self {
        Self {
            is_inline: false,
            forced_start: None,
            n_successes: 0,
            n_successes_needed: N_SUCCESSES_AT_FIRST,
            n_inline_in_row: 0,
            n_inline: 0,
            n_beside: 0,
            n_mistakes: 0,
        }
    }
}

impl History {
    /// Where the next call starts.
    pub fn next_start(&self) -> Start {
        self.forced_start.unwrap_or(if self.is_inline { Start::Inline } else { Start::Beside })
    }

    /// How many calls have started inline.
    pub fn n_inline(&self) -> u64 {
        self.n_inline
    }

    /// How many calls have started beside the dispatcher.
    pub fn n_beside(&self) -> u64 {
        self.n_beside
    }

    /// How many calls were inline and blocked, or kept others waiting for long.
    pub fn n_mistakes(&self) -> u64 {
        self.n_mistakes
    }

    /// Count a call that starts, inline or beside.
    #[inline]
    pub fn started(&mut self, start: Start) {
        match start {
            Start::Inline => {
                self.n_inline += 1;
                self.n_inline_in_row += 1;
            }
            Start::Beside => self.n_beside += 1,
        }
    }

    /// Take back the count of an inline call that could not start for want of a thread.
    pub fn note_not_started(&mut self) {
        self.n_inline = self.n_inline.saturating_sub(1);
        self.n_inline_in_row = self.n_inline_in_row.saturating_sub(1);
    }

    /// Note that a call beside the dispatcher has returned; `waited`: inline it would have delayed others.
    pub fn returned(&mut self, waited: bool) {
        self.n_successes = if waited { 0 } else { self.n_successes.saturating_add(1) };
        if self.n_successes >= self.n_successes_needed {
            self.is_inline = true;
            self.n_inline_in_row = 0;
        }
    }

    /// Note a mistake: an inline call has blocked, or kept others waiting for long.
    pub fn note_mistake(&mut self) {
        self.n_mistakes += 1;
        if self.is_inline && self.n_inline_in_row < N_CALLS_PER_MISTAKE {
            let more = self.n_successes_needed.saturating_mul(N_SUCCESSES_FACTOR);
            self.n_successes_needed = more.min(N_SUCCESSES_MAX);
        }
        self.is_inline = false;
        self.n_successes = 0;
    }
}

/// Sums over all functions of a loop.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Calls that have started inline.
    pub n_inline: u64,
    /// Calls that have started beside the dispatcher.
    pub n_beside: u64,
    /// Calls that were inline and blocked, or kept others waiting for long.
    pub n_mistakes: u64,
}

impl Totals {
    fn with(self, history: &History) -> Self {
        Self {
            n_inline: self.n_inline + history.n_inline,
            n_beside: self.n_beside + history.n_beside,
            n_mistakes: self.n_mistakes + history.n_mistakes,
        }
    }
}

/// The histories of all functions that one loop calls, each with its name.
#[derive(Debug)]
pub struct Histories<N> {
    /// Totals of the functions that were forgotten.
    forgotten: Totals,
    histories: HashMap<EntryPoint, (History, N), BuildHasherDefault<EntryPointHasher>>,
}

impl<N> Default for Histories<N> {
    fn default() -> Self {
        Self { forgotten: Totals::default(), histories: HashMap::default() }
    }
}

impl<N> Histories<N> {
    /// Start a call where it `must` start, or else where the history of its function says. `None`: the
    /// function is not known yet; call `remember`.
    #[inline]
    pub fn start(&mut self, function: EntryPoint, must: Option<Start>) -> Option<Start> {
        let (history, _) = self.histories.get_mut(&function)?;
        history.forced_start = must;
        let start = history.next_start();
        history.started(start);
        Some(start)
    }

    /// Remember a function from now on; the names of those that were forgotten for it.
    pub fn remember(&mut self, function: EntryPoint, name: N) -> Vec<N> {
        let mut forgotten = Vec::new();
        if self.histories.len() >= N_REMEMBERED_MAX {
            self.forgotten = self.totals();
            forgotten.extend(self.histories.drain().map(|(_, (_, name))| name));
        }
        let before = self.histories.insert(function, (History::default(), name));
        forgotten.extend(before.map(|(_, name)| name));
        forgotten
    }

    /// The history of a function, unless it was forgotten meanwhile.
    pub fn get_mut(&mut self, function: EntryPoint) -> Option<&mut History> {
        self.histories.get_mut(&function).map(|(history, _)| history)
    }

    /// Totals of all functions, the forgotten ones included.
    pub fn totals(&self) -> Totals {
        self.histories.values().fold(self.forgotten, |totals, (history, _)| totals.with(history))
    }

    /// Every function that is remembered, with its history and its name.
    pub fn all(&self) -> impl Iterator<Item = (EntryPoint, History, &N)> {
        self.histories.iter().map(|(function, (history, name))| (*function, *history, name))
    }
}

/// Hashes two words by multiplication: that is enough for addresses, which no input chooses.
#[derive(Debug, Default)]
pub struct EntryPointHasher(u64);

impl Hasher for EntryPointHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_usize(usize::from(byte)));
    }

    fn write_usize(&mut self, word: usize) {
        self.0 = (self.0.rotate_left(26) ^ word as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FUNCTION: EntryPoint = EntryPoint { code: 0x7f00, pool: 0 };

    /// Call a function whose calls block as `blocks` says; the number of calls, and of mistakes.
    fn call(history: &mut History, blocks: impl IntoIterator<Item = bool>) -> (u64, u64) {
        for blocks in blocks {
            let start = history.next_start();
            history.started(start);
            match start {
                Start::Beside => history.returned(blocks),
                Start::Inline if blocks => history.note_mistake(),
                Start::Inline => {}
            }
        }
        (history.n_inline() + history.n_beside(), history.n_mistakes())
    }

    #[test]
    fn a_function_that_does_not_block_is_soon_called_inline() {
        let mut history = History::default();
        call(&mut history, [false; 100]);
        assert_eq!((92, 8, 0), (history.n_inline(), history.n_beside(), history.n_mistakes()));
    }

    #[test]
    fn a_function_that_always_blocks_is_never_called_inline() {
        let mut history = History::default();
        call(&mut history, [true; 1000]);
        assert_eq!((0, 1000), (history.n_inline(), history.n_beside()));
    }

    #[test]
    fn a_function_that_blocks_every_hundredth_time_makes_few_mistakes() {
        let mut history = History::default();
        let (n_calls, n_mistakes) = call(&mut history, (1..=100_000).map(|it| it % 100 == 0));
        assert_eq!(100_000, n_calls);
        assert!(n_mistakes <= 2, "{n_mistakes} mistakes");
    }

    #[test]
    fn a_function_that_no_longer_blocks_is_called_inline_again() {
        let mut history = History::default();
        let phases = (0..10).flat_map(|_| (0..2_000).map(|it| it < 10));
        call(&mut history, phases);
        call(&mut history, vec![false; 5_000]);
        assert_eq!(Start::Inline, history.next_start());
    }

    #[test]
    fn rare_mistakes_do_not_make_a_function_wait_longer() {
        let mut history = History::default();
        call(&mut history, (1..=1_000_000).map(|it| it % 5_000 == 0));
        assert!(history.n_inline() > 990_000, "{} calls inline", history.n_inline());
    }

    #[test]
    fn functions_are_told_apart_by_code_and_pool() {
        let mut histories = Histories::default();
        let pooled = EntryPoint { pool: 3, ..FUNCTION };
        assert_eq!(None, histories.start(FUNCTION, None));
        assert!(histories.remember(FUNCTION, "free").is_empty());
        assert!(histories.remember(pooled, "pooled").is_empty());
        for _ in 0..8 {
            assert_eq!(Some(Start::Beside), histories.start(FUNCTION, None));
            histories.get_mut(FUNCTION).unwrap().returned(false);
        }
        assert_eq!(Some(Start::Inline), histories.start(FUNCTION, None));
        assert_eq!(Some(Start::Beside), histories.start(pooled, None));
        assert_eq!(Some(Start::Inline), histories.start(pooled, Some(Start::Inline)));
    }

    #[test]
    fn no_more_functions_are_remembered_than_there_is_room_for() {
        let mut histories = Histories::default();
        let mut n_forgotten = 0;
        for code in 0..3 * N_REMEMBERED_MAX {
            n_forgotten += histories.remember(EntryPoint { code, pool: 0 }, code).len();
        }
        histories.start(EntryPoint { code: 3 * N_REMEMBERED_MAX - 1, pool: 0 }, None).unwrap();
        n_forgotten += histories.remember(FUNCTION, 0).len();
        assert_eq!(Totals { n_beside: 1, ..Totals::default() }, histories.totals());
        let n_remembered = histories.all().count();
        assert!(n_remembered <= N_REMEMBERED_MAX);
        assert_eq!(3 * N_REMEMBERED_MAX + 1, n_remembered + n_forgotten);
    }

    proptest! {
        /// However often a function blocks, few of its calls are mistakes.
        #[test]
        fn mistakes_are_rare(one_in in 2..2_000u64, seed in any::<u64>()) {
            let mut random = seed | 1;
            let blocks = std::iter::repeat_with(move || {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                random % one_in == 0
            });
            let (n_calls, n_mistakes) = call(&mut History::default(), blocks.take(50_000));
            prop_assert!(n_mistakes <= 8 + n_calls / 1_000, "{n_mistakes} of {n_calls}");
        }
    }
}
