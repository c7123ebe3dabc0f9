//! Writes the demonstration's prompts with the outcomes of its simulated models, in the dataset format:
//!
//! ```sh
//! cargo run --release --example demo_dataset -- 3000 1 > demo.jsonl
//! pointsman replay --dataset demo.jsonl
//! ```

use std::io::Write;

fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u64>());
    let count = numbers.next().transpose()?.unwrap_or(3000);
    let seed = numbers.next().transpose()?.unwrap_or(1);
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for line in pointsman::demo::dataset(usize::try_from(count)?, seed)? {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}
