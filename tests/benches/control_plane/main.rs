//! What the controller's world costs, beside the algorithm that it replaced:
//! `cargo bench -p benches --bench control_plane`, all tables or those that are
//! named (`-- memory looks events lists`).

// A bench that cannot go on has nothing to say but that, and tables are output.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod before;
mod scene;

use std::{
    hint::black_box,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use control_plane_core::bindings::{
    queue::Queue,
    world::{Change, Key, ListEvent, World},
};

use self::scene::{NAMESPACE, Scene};

/// With this in its environment, the program only says how large it is.
const RESIDENT: &str = "BENCH_RESIDENT_BINDINGS";

fn main() {
    if let Ok(count) = std::env::var(RESIDENT) {
        println!("{}", resident(count.parse().unwrap()));
        return;
    }
    // Cargo adds options of its own.
    let wanted: Vec<_> = std::env::args()
        .skip(1)
        .filter(|it| !it.starts_with('-'))
        .collect();
    let tables: [(&str, fn()); 4] = [
        ("memory", memory),
        ("looks", looks),
        ("events", events),
        ("lists", first_lists),
    ];
    for (name, table) in tables {
        if wanted.is_empty() || wanted.iter().any(|it| it == name) {
            table();
        }
    }
}

fn first_lists() {
    println!("\nfirst list of n bindings of one namespace");
    println!("{:>8} {:>12} {:>12} {:>10}", "n", "before", "now", "ratio");
    let mut slowest_before = Duration::ZERO;
    for count in [250, 500, 1_000, 2_000] {
        let scene = Scene::new(count);
        let before = fastest(
            3,
            || scene.before(),
            |listed| {
                let mut world = before::World::default();
                black_box(world.first_list(listed));
            },
        );
        let now = fastest(
            5,
            || scene.now(),
            |listed| {
                black_box(list(listed));
            },
        );
        slowest_before = slowest_before.max(before);
        row(count, Some(before), now);
    }
    for count in [5_000, 50_000] {
        let scene = Scene::new(count);
        let now = fastest(
            3,
            || scene.now(),
            |listed| {
                black_box(list(listed));
            },
        );
        row(count, None, now);
        let share = now.as_secs_f64() / slowest_before.as_secs_f64();
        println!("{:>8} {:>36}", "", format!("{share:.3} of before at 2,000"));
    }
    println!("\nfirst list of n clusters that all want one server (names against ages)");
    for count in [2_000, 50_000] {
        let scene = Scene::of_one_server(count);
        let now = fastest(
            3,
            || scene.now(),
            |listed| {
                black_box(list(listed));
            },
        );
        row(count, None, now);
    }
}

fn looks() {
    println!("\none look at a binding (snapshot)");
    println!("{:>8} {:>12} {:>12} {:>10}", "n", "before", "now", "ratio");
    for count in [250, 2_000, 5_000, 50_000] {
        let scene = Scene::new(count);
        let keys: Vec<_> = scene.names().map(key).collect();
        let before = (count <= 5_000).then(|| {
            let mut world = before::World::default();
            world.fill(scene.before());
            each(keys.iter().step_by(count / 50), |key| {
                black_box(world.snapshot(&key.name));
            })
        });
        let world = list(scene.now());
        let now = each(keys.iter().cycle().take(50_000), |key| {
            black_box(world.snapshot(key));
        });
        row(count, before, now);
    }
}

fn events() {
    const COUNT: usize = 5_000;
    println!("\nat n = {COUNT}, per event");
    println!("{:>24} {:>12} {:>12} {:>10}", "", "before", "now", "ratio");
    let scene = Scene::new(COUNT);
    let mut old = before::World::default();
    old.fill(scene.before());
    let mut world = list(scene.now());
    let middle = COUNT / 2;

    let (renewed, renewed_old) = (scene.renewed(middle), scene.renewed_before(middle));
    let before = fastest(
        50,
        || Arc::clone(&renewed_old),
        |binding| {
            black_box(old.apply(binding));
        },
    );
    let now = fastest(
        500,
        || renewed.clone(),
        |(name, observed)| {
            black_box(apply(
                &mut world,
                ListEvent::Apply(name, Box::new(observed)),
            ));
        },
    );
    named_row("a status that changed", before, now);

    let mut turn = 0;
    let before = fastest(
        20,
        || {
            turn += 1;
            scene.moved_before(middle, turn)
        },
        |binding| {
            black_box(old.apply(binding));
        },
    );
    let mut turn = 0;
    let now = fastest(
        500,
        || {
            turn += 1;
            scene.moved(middle, turn)
        },
        |(name, observed)| {
            black_box(apply(
                &mut world,
                ListEvent::Apply(name, Box::new(observed)),
            ));
        },
    );
    named_row("a spec that changed", before, now);

    let now = fastest(
        5,
        || scene.now(),
        |listed| {
            black_box(relist(&mut world, listed));
        },
    );
    println!(
        "{:>24} {:>12} {:>12}",
        "the same list again",
        "",
        shown(now)
    );
}

fn memory() {
    println!(
        "\nresident memory of world and queue, {} nodes",
        scene::NODES
    );
    println!("{:>8} {:>12} {:>14}", "n", "KiB", "bytes a binding");
    let bytes = |count: usize| -> usize {
        let program = std::env::current_exe().unwrap();
        let output = Command::new(program)
            .env(RESIDENT, count.to_string())
            .output();
        let output = String::from_utf8(output.unwrap().stdout).unwrap();
        output.trim().parse().unwrap()
    };
    let base = bytes(0);
    for count in [5_000, 20_000, 50_000] {
        let used = bytes(count).saturating_sub(base);
        println!("{count:>8} {:>12} {:>14}", used / 1024, used / count);
    }
}

/// Resident bytes of this process with so many bindings, in steady state.
fn resident(count: usize) -> usize {
    let mut world = World::default();
    let mut queue = Queue::default();
    let namespace: Arc<str> = NAMESPACE.into();
    apply(&mut world, ListEvent::Init);
    for at in 0..count {
        // One by one, as the watch brings them.
        let (name, observed) = Scene::binding(at);
        let version = ListEvent::Apply(name.as_ref().into(), format!("{}", 1_000_000 + at).into());
        world.apply(Change::Secret(Arc::clone(&namespace), version));
        apply(&mut world, ListEvent::InitApply(name, Box::new(observed)));
    }
    apply(&mut world, ListEvent::InitDone);
    queue.open(&namespace);
    let later = Instant::now() + Duration::from_secs(3600);
    for at in 0..count {
        let name = scene::name(at);
        queue.add(world.key(&namespace, &name), later);
    }
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = status.split(' ').nth(1).unwrap().parse().unwrap();
    black_box((world, queue));
    pages * 4096
}

fn key(name: Arc<str>) -> Key {
    Key {
        namespace: NAMESPACE.into(),
        name,
    }
}

type Listed = Vec<(Arc<str>, control_plane_core::bindings::binding::Observed)>;

fn list(listed: Listed) -> World {
    let mut world = World::default();
    relist(&mut world, listed);
    world
}

fn relist(world: &mut World, listed: Listed) -> usize {
    let mut keys = apply(world, ListEvent::Init);
    for (name, observed) in listed {
        let namespace = NAMESPACE.into();
        let event = ListEvent::InitApply(name, Box::new(observed));
        keys += world.apply(Change::Binding(namespace, event)).len();
    }
    keys + apply(world, ListEvent::InitDone)
}

fn apply(
    world: &mut World,
    event: ListEvent<Box<control_plane_core::bindings::binding::Observed>>,
) -> usize {
    let keys = world.apply(Change::Binding(NAMESPACE.into(), event));
    let (more, is_settled) = world.settle(usize::MAX);
    assert!(is_settled);
    keys.len() + more.len()
}

/// The fastest of some runs; what `prepare` makes is not measured.
fn fastest<T>(runs: usize, mut prepare: impl FnMut() -> T, mut run: impl FnMut(T)) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..runs {
        let prepared = prepare();
        let started = Instant::now();
        run(prepared);
        best = best.min(started.elapsed());
    }
    best
}

/// The mean over some items.
fn each<T>(items: impl Iterator<Item = T>, mut run: impl FnMut(T)) -> Duration {
    let items: Vec<_> = items.collect();
    let count = u32::try_from(items.len()).unwrap();
    let started = Instant::now();
    items.into_iter().for_each(&mut run);
    started.elapsed() / count
}

fn row(count: usize, before: Option<Duration>, now: Duration) {
    let old = before.map(shown).unwrap_or_default();
    println!(
        "{count:>8} {old:>12} {:>12} {:>10}",
        shown(now),
        ratio(before, now)
    );
}

fn named_row(what: &str, before: Duration, now: Duration) {
    let ratio = ratio(Some(before), now);
    println!(
        "{what:>24} {:>12} {:>12} {ratio:>10}",
        shown(before),
        shown(now)
    );
}

fn ratio(before: Option<Duration>, now: Duration) -> String {
    let ratio = before.map(|before| before.as_secs_f64() / now.as_secs_f64());
    ratio
        .map(|ratio| format!("{ratio:.0} x"))
        .unwrap_or_default()
}

fn shown(time: Duration) -> String {
    format!("{time:.3?}")
}
