//! Every fuzz target on its seeds and on changed seeds: the same ones each time, a bounded number, on any toolchain.
//! `TPDOCKER_FUZZ_CASES=10000000` makes it a long run, `TPDOCKER_FUZZ_SEED=7` another one.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tpdocker_fuzz::{TARGETS, Target};

/// Cases of each target: seconds in a debug build, all together.
const CASES: u64 = 50_000;
/// Numbers at the edges of length fields.
const EDGES: [u32; 12] = [0, 1, 3, 4, 7, 8, 0x7fff, 0x8000, 0xffff, 0x1_0000, 0x7fff_ffff, 0xffff_ffff];
/// Most changes of one input, and most bytes that one change adds.
const MAX_CHANGES: usize = 5;
const MAX_INSERT: usize = 16;

/// xorshift64* (Marsaglia, Vigna): good enough to choose changes by, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `bound`, which is not 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % bound
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    /// A place in `bytes`, or its end.
    fn place(&mut self, bytes: &[u8]) -> usize {
        self.below(bytes.len() + 1)
    }
}

fn change(bytes: &mut Vec<u8>, random: &mut Random, seeds: &[Vec<u8>]) {
    let at = random.place(bytes);
    let here = bytes.get_mut(at);
    match (random.below(9), here) {
        (0, Some(byte)) => *byte = random.byte(),
        (1, Some(byte)) => *byte ^= 1 << random.below(8),
        // One more or one less: what a length is when somebody miscounts.
        (2, Some(byte)) => *byte = byte.wrapping_add(1),
        (3, Some(byte)) => *byte = byte.wrapping_sub(1),
        (4, Some(_)) => {
            let edge = EDGES[random.below(EDGES.len())];
            // Both byte orders are on the wire somewhere.
            let number = if random.below(2) == 0 { edge.to_le_bytes() } else { edge.to_be_bytes() };
            let width = [1, 2, 4][random.below(3)];
            bytes.iter_mut().skip(at).zip(&number[4 - width..]).for_each(|(place, byte)| *place = *byte);
        }
        (5, _) => bytes.truncate(at),
        (6, _) => drop(bytes.drain(at..(at + 1 + random.below(MAX_INSERT)).min(bytes.len()))),
        (7, _) => {
            let more: Vec<u8> = (0..=random.below(MAX_INSERT)).map(|_| random.byte()).collect();
            bytes.splice(at..at, more);
        }
        // Goes on with the tail of another seed.
        _ => {
            let seed = &seeds[random.below(seeds.len())];
            let from = random.place(seed);
            bytes.truncate(at);
            bytes.extend_from_slice(&seed[from..]);
        }
    }
}

fn fails(target: &Target, bytes: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).is_err()
}

/// The failing input with every byte left out that it can do without.
fn shrunk(target: &Target, mut bytes: Vec<u8>) -> Vec<u8> {
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes.remove(at);
        if !fails(target, &bytes) {
            bytes.insert(at, byte);
            at += 1;
        }
    }
    bytes
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

fn try_out(target: &Target) {
    let seeds = (target.seeds)();
    for seed in seeds.iter().chain([&Vec::new()]) {
        assert!(!fails(target, seed), "target {} fails on its seed {seed:02x?}", target.name);
    }
    let mut random = Random(number("TPDOCKER_FUZZ_SEED", 1).max(1));
    for _ in 0..number("TPDOCKER_FUZZ_CASES", CASES) / target.cost {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(MAX_CHANGES) {
            change(&mut bytes, &mut random, &seeds);
        }
        if fails(target, &bytes) {
            let bytes = shrunk(target, bytes);
            panic!("target {} fails on {bytes:02x?}", target.name);
        }
    }
}

#[test]
fn every_target_stands_what_is_near_its_seeds() {
    TARGETS.iter().for_each(try_out);
}

#[test]
fn every_target_has_a_binary_for_libfuzzer() {
    let manifest = include_str!("../Cargo.toml");
    for target in &TARGETS {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{}.rs\"", target.name)), "{}", target.name);
    }
    assert_eq!(manifest.matches("[[bin]]").count(), TARGETS.len());
}
