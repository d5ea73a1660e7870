//! Whether what was set fits together: refuses what cannot work, and names what can. Pure, but for one variable.

use everycore_core::{self as core, CreditSettings, Limits, Policy, Settings};

use super::node;
use super::program::Dialect;
use super::route::Plan;
use super::{Cluster, Readiness, at_least_one, auto};
use crate::error::{Error, Result};

/// Fits classes of workers together with what else was set.
pub(super) fn plan(cluster: &mut Cluster) -> Result<Option<Plan>> {
    let setting = |problem: &str| Err(Error::Setting(format!("route: {problem}")));
    let Some(route) = cluster.route.take() else {
        return match cluster.policy {
            Some(Policy::Route) => setting("there are no classes of workers; add them with Cluster::route"),
            _ => Ok(None),
        };
    };
    if cluster.scheduling.is_some() {
        return setting("a policy of one's own cannot be beside classes of workers; leave one of them out");
    }
    if cluster.policy.is_some_and(|policy| policy != Policy::Route) {
        return setting("classes of workers are policy route; set another one within the classes");
    }
    let workers = route.workers() as usize;
    if cluster.workers.is_some_and(|wanted| wanted != workers) {
        return Err(Error::Setting(format!(
            "route: the classes have {workers} workers together; leave the number of workers out"
        )));
    }
    let mut names: Vec<&str> = cluster.binds.iter().map(|(name, ..)| name.as_str()).collect();
    names.dedup();
    let plan = route.plan(&names)?;
    (cluster.workers, cluster.policy) = (Some(workers), Some(Policy::Route));
    Ok(Some(plan))
}

/// What the core is to go by.
pub(super) struct Fitted {
    pub(super) settings: Settings,
    /// Whether the primary hands connections over, or workers accept for themselves.
    pub(super) hands_off: bool,
}

/// What was set, as the core takes it; classes of workers have been fitted in before.
pub(super) fn settings(cluster: &Cluster) -> Result<Fitted> {
    let workers = at_least_one(cluster.workers.unwrap_or_else(auto))?;
    let policy = cluster.policy.unwrap_or_else(|| policy_from_environment(cluster.dialect, &cluster.limits));
    let hands_off = cluster.scheduling.is_some() || policy.hands_off();
    check(&cluster.limits, policy, hands_off, cluster.dialect, cluster.preload)?;
    if cluster.recycle.connections.is_some() && !hands_off {
        return Err(Error::Setting(format!(
            "recycle.connections: under policy {policy} workers accept for themselves and nobody counts; choose round-robin, least or sticky"
        )));
    }
    let settings = Settings {
        workers: u32::try_from(workers.get()).unwrap_or(u32::MAX),
        policy,
        readiness: match cluster.readiness {
            Readiness::Listening => core::Readiness::Listening,
            Readiness::Online => core::Readiness::Online,
            Readiness::Message
            | Readiness::Notify
            | Readiness::Socket
            | Readiness::Inherited
            | Readiness::StaysUp(_) => core::Readiness::Notified,
        },
        restart: cluster.restart.clone(),
        deadlines: cluster.deadlines.clone(),
        recycle: cluster.recycle.clone(),
        hung: cluster.hung,
        limits: cluster.limits.clone(),
        credit: match cluster.dialect {
            Dialect::Everycore => CreditSettings::default(),
            Dialect::Node(_) => node::credit(),
        },
        seed: u64::from(std::process::id()),
        ..Settings::default()
    };
    let settings = settings.validated().map_err(|error| Error::Setting(error.to_string()))?;
    Ok(Fitted { settings, hands_off })
}

/// Refuses what cannot work, and names what can.
fn check(limits: &Limits, policy: Policy, hands_off: bool, dialect: Dialect, preload: bool) -> Result<()> {
    if *limits == Limits::default() {
        return Ok(());
    }
    if !hands_off {
        return Err(Error::Setting(format!(
            "max_connections: under policy {policy} workers accept for themselves and nobody counts; choose round-robin, least, sticky or route"
        )));
    }
    match dialect {
        Dialect::Node(_) if !preload => Err(Error::Setting(
            "max_connections: without the script that they load first, Node workers do not report what they have closed; leave it in, or set server.maxConnections in the program"
                .into(),
        )),
        Dialect::Everycore | Dialect::Node(_) => Ok(()),
    }
}

/// Node's variable, else the default: for Node workers the shared socket, since each connection handed over costs
/// them a turn of their event loop; but where connections are counted they are handed over.
fn policy_from_environment(dialect: Dialect, limits: &Limits) -> Policy {
    match (std::env::var("NODE_CLUSTER_SCHED_POLICY").as_deref(), dialect) {
        (Ok("none"), _) => Policy::Shared,
        (Ok("rr"), _) => Policy::RoundRobin,
        (_, Dialect::Everycore) => Policy::Least,
        (_, Dialect::Node(_)) if *limits != Limits::default() => Policy::Least,
        (_, Dialect::Node(_)) => Policy::Shared,
    }
}
