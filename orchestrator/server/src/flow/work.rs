//! How many seats a request takes: a long list costs the server more than a look at one object.

use crate::core::Core;
use crate::keys;
use crate::query::Query;
use crate::route::{Route, Verb};
use catamaran_api::kind;

/// Objects that one seat is good for.
const OBJECTS: u64 = 100;
/// The widest request.
const MOST: u64 = 10;

/// Seats of a request.
pub(super) async fn seats(core: &Core, route: &Route, query: &Query) -> u32 {
    let Route::Resource(request) = route else { return 1 };
    let lists = match request.verb {
        Verb::List => true,
        Verb::Watch => query.flag("sendInitialEvents"),
        _ => false,
    };
    let Some(resource) = kind::find(&request.group, &request.version, &request.resource).filter(|_| lists)
    else {
        return 1;
    };
    let stored = resource.stored_as().unwrap_or(resource);
    let there = core.flow.count(keys::all(stored)).await;
    width(there, query.get("limit").and_then(|limit| limit.parse().ok()))
}

fn width(there: u64, limit: Option<u64>) -> u32 {
    let read = limit.filter(|limit| *limit > 0).map_or(there, |limit| limit.min(there));
    u32::try_from(read.div_ceil(OBJECTS).clamp(1, MOST)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths() {
        let table = [
            (0, None, 1),
            (100, None, 1),
            (101, None, 2),
            (1_000_000, None, 10),
            (1_000_000, Some(500), 5),
            (20, Some(500), 1),
            (950, Some(0), 10),
        ];
        for (there, limit, expected) in table {
            assert_eq!(width(there, limit), expected, "{there} {limit:?}");
        }
    }
}
