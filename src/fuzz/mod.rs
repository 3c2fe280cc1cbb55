//! What the fuzz targets in `tests/fuzz` run, one function each: it takes any bytes and panics where something is wrong.

mod checkpoint;
mod sql;

pub use checkpoint::checkpoint;
pub use sql::sql;

pub use crate::feed::fuzz::{headers, sse};
pub use crate::format::fuzz::decode;
pub use crate::serve::stream::fuzz::templates;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_seeds_of_every_target_pass() {
        type Target = (&'static str, fn(&[u8]));
        let targets: [Target; 6] = [
            ("sse", sse),
            ("headers", headers),
            ("decode", decode),
            ("templates", templates),
            ("sql", sql),
            ("checkpoint", checkpoint),
        ];
        for (target, run) in targets {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
            let seeds: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|seed| seed.unwrap().path()).collect();
            assert!(!seeds.is_empty(), "{target}");
            for seed in seeds {
                println!("{}", seed.display());
                run(&std::fs::read(seed).unwrap());
            }
        }
    }
}
