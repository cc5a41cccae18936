//! Writes to a credential volume until it is killed, with the agent's own code.
//!
//! `volume_writer <volume> <life>`: some lives begin as the agent does, by taking the volume over.

use std::env;

use agent::store::Store;
use agent::volume::Volume;
use anyhow::{Context as _, Result, ensure};
use harness::generations::{self, Generation, Kind};
use jiff::Timestamp;

/// One in so many takes over; the others find what the one before left.
const ADOPTING: u32 = 5;

fn main() -> Result<()> {
    let mut arguments = env::args_os().skip(1);
    let volume = arguments.next().context("the volume is missing")?;
    let life = arguments.next().context("the life is missing")?;
    let life: u32 = life.to_str().context("the life is no text")?.parse()?;
    let store = Store::at(&volume);
    if life.is_multiple_of(ADOPTING) {
        let mut taken_over = Volume::adopt(store.clone())?;
        let changed = taken_over.reconcile(None, Timestamp::now())?;
        ensure!(!changed, "something valid was not taken over");
        for kind in Kind::ALL {
            let left = generations::temporaries(volume.as_ref(), kind)?;
            ensure!(left == 0, "a temporary file is left beside {kind:?}");
        }
    } else {
        store.prepare()?;
    }
    for round in 0.. {
        generations::write(&store, Generation { life, round })?;
    }
    Ok(())
}
