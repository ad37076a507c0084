//! FlowSchemas in the order in which they are tried, each with its priority level; made anew when an object
//! changes, while the levels and those who wait in them stay.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderValue;
use serde_json::Value;

use catamaran_api::meta;

use super::classify::{Asked, Rule};
use super::level::{Level, Queuing};
use super::share::{self, Share};
use super::{Classified, defaults};
use crate::authenticate::UserInfo;

/// A FlowSchema whose level exists.
pub(crate) struct Schema {
    pub(super) name: String,
    precedence: i64,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
    pub(super) level: Arc<Level>,
    told: Classified,
}

/// What makes requests of one schema different flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distinguisher {
    Nothing,
    User,
    Namespace,
}

/// A level with its share of the server.
struct Placed {
    level: Arc<Level>,
    share: Share,
    nominal: u32,
    uid: HeaderValue,
}

/// All that is in force. Never without the schemas `exempt` and `catch-all` and their levels.
pub(crate) struct Table {
    schemas: Vec<Schema>,
    levels: BTreeMap<String, Placed>,
}

impl Schema {
    fn of(object: &Value, levels: &BTreeMap<String, Placed>) -> Option<Self> {
        let spec = &object["spec"];
        let placed = levels.get(spec["priorityLevelConfiguration"]["name"].as_str()?)?;
        Some(Schema {
            name: meta::name(object).to_owned(),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(1000),
            distinguisher: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::Nothing,
            },
            rules: spec["rules"].as_array().into_iter().flatten().map(Rule::of).collect(),
            level: placed.level.clone(),
            told: Classified { schema: uid(object), level: placed.uid.clone() },
        })
    }

    /// What the client is told.
    pub(super) fn told(&self) -> Classified {
        self.told.clone()
    }

    /// The flow that a request belongs to.
    pub(super) fn distinguish<'a>(&self, user: &'a UserInfo, asked: &Asked<'a>) -> &'a str {
        match self.distinguisher {
            Distinguisher::Nothing => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => asked.namespace(),
        }
    }
}

impl Table {
    /// From the stored objects; levels that are in `before` are taken over. `total` is the number of seats.
    pub(super) fn build<'a>(
        objects: impl Iterator<Item = &'a Value>,
        before: Option<&Table>,
        total: u32,
    ) -> Self {
        let mandatory = defaults::mandatory();
        let (mut levels, mut schemas) = (BTreeMap::new(), BTreeMap::new());
        // What must be there is, whoever deleted it.
        let objects: Vec<&Value> = objects.collect();
        for object in mandatory.iter().chain(objects) {
            let kind = if object["kind"] == "FlowSchema" { &mut schemas } else { &mut levels };
            kind.insert(meta::name(object).to_owned(), object);
        }
        let shares: Vec<Share> = levels.values().map(|object| Share::of(object)).collect();
        let nominal = share::nominal(total, &shares);
        let place = |((name, object), (share, nominal)): ((String, &Value), (Share, u32))| {
            let kept = before.and_then(|table| table.levels.get(&name)).map(|placed| placed.level.clone());
            let level = kept.unwrap_or_else(|| Arc::new(Level::new(share.exempt)));
            level.configure(Queuing::of(object), nominal);
            (name, Placed { level, share, nominal, uid: uid(object) })
        };
        let levels: BTreeMap<String, Placed> =
            levels.into_iter().zip(shares.into_iter().zip(nominal)).map(place).collect();
        let mut schemas: Vec<Schema> =
            schemas.values().filter_map(|object| Schema::of(object, &levels)).collect();
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        Table { schemas, levels }
    }

    /// The schema of a request.
    pub(super) fn classify(&self, user: &UserInfo, asked: &Asked<'_>) -> &Schema {
        let found = self.schemas.iter().find(|s| s.rules.iter().any(|rule| rule.matches(user, asked)));
        found.or(self.schemas.last()).expect("the table has the mandatory schemas")
    }

    /// Whether there is a level of that name.
    pub(super) fn has_level(&self, name: &str) -> bool {
        self.levels.contains_key(name)
    }

    /// All levels with the seats that are nominally theirs.
    pub(super) fn levels(&self) -> impl Iterator<Item = (&str, &Arc<Level>, u32)> {
        self.levels.iter().map(|(name, placed)| (name.as_str(), &placed.level, placed.nominal))
    }

    /// Lends what idle levels may give to those that need more; whether nobody needs more than is his.
    pub(super) fn adjust(&self) -> bool {
        let limited = || self.levels.values().filter(|placed| !placed.share.exempt);
        let needs: Vec<share::Need> =
            limited().map(|placed| placed.share.need(placed.nominal, placed.level.take_peak())).collect();
        let mut quiet = true;
        for (placed, seats) in limited().zip(share::allot(&needs)) {
            placed.level.resize(seats);
            quiet &= seats == placed.nominal && placed.level.load().1 == 0;
        }
        quiet
    }
}

fn uid(object: &Value) -> HeaderValue {
    HeaderValue::from_str(meta::uid(object)).unwrap_or(HeaderValue::from_static(""))
}
