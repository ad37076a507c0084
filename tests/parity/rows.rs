//! The rows, by area. A row counts only when the very same assertion holds for both kinds.

mod configuration;
mod ends;
mod lifecycle;
mod logs;
mod network;
mod volumes;

use crate::row::Row;

pub(crate) fn all() -> Vec<Row> {
    let areas = [
        configuration::rows(),
        volumes::rows(),
        ends::rows(),
        logs::rows(),
        lifecycle::rows(),
        network::rows(),
    ];
    areas.into_iter().flatten().collect()
}
