//! A level under load: seats are never exceeded, nobody is forgotten, refused requests cost nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::level::{Level, Queuing};
use super::schema::Table;
use crate::UserInfo;
use crate::authorize::{Action, Attributes};

fn level(seats: u32, length: usize) -> Arc<Level> {
    let level = Arc::new(Level::new(false));
    level.configure(Some(Queuing { queues: 8, hand: 2, length }), seats);
    level
}

#[tokio::test(start_paused = true)]
async fn seats_are_never_exceeded_and_all_come_back() {
    let level = level(4, 1000);
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut tasks = JoinSet::new();
    for number in 0..400_u64 {
        let (level, running, most) = (level.clone(), running.clone(), most.clone());
        tasks.spawn(async move {
            let seats = 1 + u32::try_from(number % 3).unwrap();
            let seat = match level.try_enter(seats) {
                Some(seat) => Some(seat),
                None => level.queue(number % 17, seats).unwrap().await,
            };
            let now = running.fetch_add(seats, Ordering::SeqCst) + seats;
            most.fetch_max(now, Ordering::SeqCst);
            sleep(Duration::from_millis(1 + number % 5)).await;
            running.fetch_sub(seats, Ordering::SeqCst);
            drop(seat);
        });
    }
    tasks.join_all().await;
    assert!(most.load(Ordering::SeqCst) <= 4, "{most:?}");
    assert_eq!(level.load(), (0, 0, 4));
}

/// Threads that take and leave at once: the one place where a wake-up could be lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_forgotten() {
    let level = level(2, 100_000);
    let mut tasks = JoinSet::new();
    for number in 0..64_u64 {
        let level = level.clone();
        tasks.spawn(async move {
            for round in 0..200_u64 {
                let Some(seat) = level.try_enter(1) else {
                    let waiting = level.queue(number, 1).unwrap();
                    // Some lose patience, perhaps just when the seat comes.
                    if (number + round) % 7 == 0 {
                        timeout(Duration::from_micros(50), waiting).await.ok();
                    } else {
                        waiting.await.unwrap();
                    }
                    continue;
                };
                tokio::task::yield_now().await;
                drop(seat);
            }
        });
    }
    timeout(Duration::from_secs(20), tasks.join_all()).await.expect("everybody gets a seat");
    assert_eq!(level.load(), (0, 0, 2));
}

#[tokio::test]
async fn full_queues_refuse_and_more_seats_help_at_once() {
    let level = level(1, 2);
    let first = level.try_enter(1).unwrap();
    // Two queues in the hand of the flow, two places in each.
    let waiting: Vec<_> = (0..4).map(|_| level.queue(5, 1).unwrap()).collect();
    assert!(level.queue(5, 1).is_none(), "full");
    assert!(level.try_enter(1).is_none(), "nobody overtakes");
    assert_eq!(level.load(), (1, 4, 1));
    level.resize(5);
    assert_eq!(level.load(), (5, 0, 5));
    let seats: Vec<_> = futures::future::join_all(waiting).await;
    drop((first, seats));
    assert_eq!(level.load(), (0, 0, 5));
    level.configure(None, 1);
    let _seat = level.try_enter(9).expect("a wide one takes what there is");
    assert!(level.queue(5, 1).is_none(), "this level does not queue");
}

#[tokio::test]
async fn a_wide_one_does_not_starve() {
    let level = level(3, 10);
    let mut seats: Vec<_> = (0..3).map(|_| level.try_enter(1).unwrap()).collect();
    let wide = level.queue(1, 3).unwrap();
    let narrow = level.queue(1, 1).unwrap();
    seats.pop();
    assert_eq!(level.load(), (2, 2, 3), "the wide one is next, and no one overtakes it");
    seats.clear();
    drop(wide.await);
    narrow.await.unwrap();
}

#[tokio::test]
async fn idle_levels_lend_and_get_back() {
    let objects = super::defaults::objects();
    let table = Table::build(objects.iter(), None, 100);
    let level = |name: &str| {
        let found = table.levels().find(|(level, _, _)| *level == name).unwrap();
        (found.1.clone(), found.2)
    };
    let (global, nominal) = level("global-default");
    let (leader, leaders) = level("leader-election");
    assert_eq!((nominal, leaders), (9, 5));
    let mut seats: Vec<_> = (0..9).map(|_| global.try_enter(1).unwrap()).collect();
    let waiting: Vec<_> = (0..20).map(|flow| global.queue(flow, 1).unwrap()).collect();
    assert!(!table.adjust(), "somebody needs more");
    assert_eq!(global.load(), (29, 0, 29));
    assert_eq!(leader.load().2, 5, "this level lends nothing");
    seats.extend(futures::future::join_all(waiting).await.into_iter().flatten());
    drop(seats);
    table.adjust();
    assert!(table.adjust(), "everybody has his own again");
    assert_eq!(global.load(), (0, 0, 9));
}

#[test]
fn what_must_be_there_is_there() {
    let table = Table::build([].iter(), None, 100);
    let wanted =
        Attributes { verb: "get", group: "", resource: "pods", subresource: "", namespace: "d", name: "" };
    let master = UserInfo::new("admin", &["system:masters"]);
    assert_eq!(table.classify(&master, &Action::Resource(wanted)).name, "exempt");
    assert_eq!(table.classify(&UserInfo::anonymous(), &Action::Resource(wanted)).name, "catch-all");
    let dangling = json!({
        "kind": "FlowSchema", "metadata": {"name": "x"},
        "spec": {"priorityLevelConfiguration": {"name": "nope"}, "matchingPrecedence": 1, "rules": []},
    });
    let table = Table::build([dangling].iter(), Some(&table), 100);
    assert!(!table.has_level("nope"));
    assert_eq!(table.classify(&master, &Action::Resource(wanted)).name, "exempt");
}
