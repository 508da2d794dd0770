//! The table compared with a simple model, and used by concurrent threads.

use std::{collections::HashMap, sync::Barrier, thread};

use proptest::prelude::*;

use super::*;

#[test]
fn concurrent_threads_agree_on_the_count() {
    let (table, blue, now) = (table(50), backend("chat", "blue"), Instant::now());
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for seed in 0..4 {
            let (table, blue, start) = (&table, &blue, &start);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut tunnels = Vec::new();
                start.wait();
                for _ in 0..20_000 {
                    let sid = random.u8(..80).to_string();
                    match random.u8(..6) {
                        0 => drop(table.learn(&sid, blue, LIFE, now)),
                        1 => drop(table.find("chat", &sid, now)),
                        2 => tunnels.extend(table.hold("chat", &sid, now)),
                        3 if !tunnels.is_empty() => {
                            drop(tunnels.swap_remove(random.usize(..tunnels.len())));
                        }
                        4 => table.forget("chat", &sid),
                        _ => drop(table.sweep(now)),
                    }
                }
            });
        }
    });
    assert!(table.len() <= 50);
    // All tunnels have ended, so only entries count, each at most once.
    assert!(blue.sessions() <= table.len());
    let found = (0..80).filter(|n: &u8| table.find("chat", &n.to_string(), now).is_some()).count();
    assert_eq!((found, found), (table.len(), blue.sessions()));
    assert_eq!(finish(table.forget_backend(&blue)), found);
    assert_eq!((table.len(), blue.sessions()), (0, 0));
}

/// Expected state of one session's entry.
#[derive(Default)]
struct Model {
    /// Backend, expiry in seconds, counted; the lifetime is always 10 s.
    entry: Option<(usize, u64, bool)>,
    tunnels: Vec<SessionHold>,
}

#[derive(Clone, Debug)]
enum TableStep {
    Learn(u8, usize),
    Find(u8),
    Hold(u8),
    End(u8),
    Forget(u8),
    ForgetBackend(usize),
    Wait(u64),
    Sweep,
}

fn step() -> impl Strategy<Value = TableStep> {
    let sid = 0u8..4;
    prop_oneof![
        (sid.clone(), 0usize..2).prop_map(|(sid, on)| TableStep::Learn(sid, on)),
        sid.clone().prop_map(TableStep::Find),
        sid.clone().prop_map(TableStep::Hold),
        sid.clone().prop_map(TableStep::End),
        sid.prop_map(TableStep::Forget),
        (0usize..2).prop_map(TableStep::ForgetBackend),
        (0u64..12).prop_map(TableStep::Wait),
        Just(TableStep::Sweep),
    ]
}

proptest! {
    /// All tunnels of a session are on one backend: before a session is learned on another backend or forgotten, its tunnels
    /// are closed.
    #[test]
    fn table_agrees_with_the_model(steps in proptest::collection::vec(step(), 1..80)) {
        let (table, start) = (table(1000), Instant::now());
        let backends = [backend("chat", "blue"), backend("chat", "green")];
        let mut models: HashMap<u8, Model> = HashMap::new();
        let mut clock = 0;
        for step in steps {
            let now = start + Duration::from_secs(clock);
            let alive = |model: &Model| {
                model.entry.filter(|it| !model.tunnels.is_empty() || it.1 >= clock)
            };
            match step {
                TableStep::Learn(sid, on) => {
                    let model = models.entry(sid).or_default();
                    if model.entry.is_some_and(|it| it.0 != on) {
                        model.tunnels.clear();
                    }
                    prop_assert!(table.learn(&sid.to_string(), &backends[on], Duration::from_secs(10), now));
                    model.entry = Some((on, clock + 10, true));
                }
                TableStep::Find(sid) => {
                    let model = models.entry(sid).or_default();
                    model.entry = alive(model).map(|it| (it.0, clock + 10, true));
                    let found = table.find("chat", &sid.to_string(), now);
                    prop_assert_eq!(
                        found.map(|known| known.backend.serial()),
                        model.entry.map(|it| backends[it.0].serial())
                    );
                }
                TableStep::Hold(sid) => {
                    let model = models.entry(sid).or_default();
                    model.entry = alive(model).map(|it| (it.0, clock + 10, true));
                    let held = table.hold("chat", &sid.to_string(), now);
                    prop_assert_eq!(held.is_some(), model.entry.is_some());
                    model.tunnels.extend(held);
                }
                TableStep::End(sid) => {
                    let model = models.entry(sid).or_default();
                    // A sweep that removes nothing advances the table's clock.
                    model.entry = alive(model);
                    table.sweep(now);
                    if model.tunnels.pop().is_some() && model.tunnels.is_empty() {
                        model.entry = model.entry.map(|it| (it.0, clock + 10, false));
                    }
                }
                TableStep::Forget(sid) => {
                    table.sweep(now);
                    models.insert(sid, Model::default());
                    table.forget("chat", &sid.to_string());
                }
                TableStep::ForgetBackend(on) => {
                    models.retain(|_, model| model.entry.is_none_or(|it| it.0 != on));
                    finish(table.forget_backend(&backends[on]));
                }
                TableStep::Wait(seconds) => clock += seconds,
                TableStep::Sweep => drop(sweep_all(&table, now)),
            }
            // Expired entries are removed only by a use or a full sweep: so both sides are swept here.
            let now = start + Duration::from_secs(clock);
            sweep_all(&table, now);
            for model in models.values_mut() {
                model.entry = model.entry.filter(|it| !model.tunnels.is_empty() || it.1 >= clock);
            }
            let entries = models.values().filter_map(|model| model.entry);
            prop_assert_eq!(table.len(), entries.clone().count());
            for (at, backend) in backends.iter().enumerate() {
                let counted = entries.clone().filter(|it| it.0 == at && it.2).count();
                prop_assert_eq!(backend.sessions(), counted);
            }
        }
    }
}
