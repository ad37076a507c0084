//! A node that has the images already starts the pod sooner.

use crate::shape::Shape;
use crate::snapshot::{Detail, Snapshot};

/// Below this many bytes an image hardly matters (23 MB).
const LEAST: i64 = 23 << 20;
/// Above this many bytes for each container more makes no difference (1 GB).
const MOST: i64 = 1000 << 20;

/// By the sizes of the images that are there. An image that few nodes have counts less, so that one node does
/// not get all pods just because it had the first.
pub(super) fn score(shape: &Shape, snapshot: &Snapshot, detail: &Detail) -> i64 {
    if detail.images.is_empty() || shape.images.is_empty() {
        return 0;
    }
    let nodes = i64::try_from(snapshot.len()).unwrap_or(i64::MAX).max(1);
    let there: i64 = shape
        .images
        .iter()
        .filter_map(|image| Some((detail.images.get(image)?, i64::from(snapshot.image_nodes(image)))))
        .map(|(size, on)| size / nodes * on)
        .sum();
    let most = MOST * i64::try_from(shape.images.len()).unwrap_or(1);
    (there.clamp(LEAST, most) - LEAST) * 100 / (most - LEAST)
}
