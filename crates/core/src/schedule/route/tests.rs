//! Which class gets a connection, and who of it.

use super::*;

fn workers(slots: &[u32]) -> Vec<Candidate> {
    let candidate = |&slot: &u32| Candidate {
        worker: WorkerId::new(slot + 1),
        slot: Slot::new(slot),
        load: 0,
        live: 0,
        recent: 0,
        full: false,
    };
    slots.iter().map(candidate).collect()
}

fn from(address: &str) -> Option<SocketAddr> {
    Some(SocketAddr::new(address.parse().unwrap(), 40_000))
}

/// Two normal workers, then one special one.
fn route(special: Class) -> Route {
    let normal = Class::new("normal", 2).policy(Policy::RoundRobin);
    Route::new().class(normal).class(special).rule("10.1.0.0/16".parse().unwrap(), "special")
}

fn router() -> Router {
    Router::new(route(Class::new("special", 1))).unwrap()
}

/// The slot that is picked, or that the class's policy waits for.
fn pick(router: &mut Router, free: &[u32], busy: &[u32], source: &str) -> Result<u32, Option<u32>> {
    let (free, busy, from) = (workers(free), workers(busy), from(source));
    let class = router.class_for(&Inbound { peer: from, ..Inbound::default() });
    match router.pick(class, &Candidates { free: &free, busy: &busy, from, overflow: false, credit: 1 }) {
        Pick::Free(worker) => Ok(worker.get() - 1),
        Pick::Nobody(wished) => Err(wished.map(|worker| worker.get() - 1)),
    }
}

#[test]
fn rules_pick_the_class_and_its_policy_the_worker() {
    let mut router = router();
    let picks = ["10.1.2.3", "10.2.0.1", "10.1.0.0", "::ffff:10.1.9.9", "::1", "192.0.2.1"]
        .map(|source| pick(&mut router, &[0, 1, 2], &[], source).unwrap());
    assert_eq!(picks, [2, 0, 2, 2, 1, 0]);
}

#[test]
fn a_class_with_nobody_free_spills_only_if_told_to() {
    let mut waits = router();
    assert_eq!(pick(&mut waits, &[0, 1], &[2], "10.1.0.1"), Err(None), "whoever of it is free first");
    let sticky = Class::new("special", 1).policy(Policy::Sticky);
    let mut sticky = Router::new(route(sticky)).unwrap();
    assert_eq!(pick(&mut sticky, &[0, 1], &[2], "10.1.0.1"), Err(Some(2)), "its own worker");
    let special = Class::new("special", 1).when_full(WhenFull::SpillTo("normal".into()));
    let mut spills = Router::new(route(special)).unwrap();
    assert_eq!(pick(&mut spills, &[1], &[0, 2], "10.1.0.1"), Ok(1));
    assert_eq!(pick(&mut spills, &[], &[0, 1, 2], "10.1.0.1"), Err(None));
    assert_eq!(pick(&mut spills, &[2], &[0, 1], "192.0.2.1"), Err(None), "the other way it does not");
}

#[test]
fn every_condition_of_a_rule_counts() {
    let route = [("listener:admin", "ops"), ("port:8443,10.0.0.0/8", "tenant"), ("from:10.0.0.0/8", "ops")]
        .into_iter()
        .fold(
            Route::new()
                .class(Class::new("web", 1))
                .class(Class::new("ops", 1))
                .class(Class::new("tenant", 1)),
            |route, (rule, class)| route.rule(rule.parse().unwrap(), class),
        );
    let router = Router::new(route).unwrap();
    let class = |peer: Option<SocketAddr>, listener, port| {
        let local = Some(SocketAddr::from(([192, 0, 2, 1], port)));
        router.name(router.class_for(&Inbound { peer, listener, local })).to_owned()
    };
    assert_eq!(class(from("192.0.2.9"), "admin", 9000), "ops");
    assert_eq!(class(from("10.0.0.1"), "https", 8443), "tenant");
    assert_eq!(class(from("10.0.0.1"), "http", 80), "ops");
    assert_eq!(class(from("192.0.2.9"), "https", 8443), "web");
    assert_eq!(class(None, "", 8443), "web");
    let unix = Inbound { listener: "admin", ..Inbound::default() };
    assert_eq!(router.name(router.class_for(&unix)), "ops");
}

#[test]
fn what_is_no_rule_names_the_condition() {
    for (text, condition) in [
        ("", ""),
        ("10.0.0.0/40", "10.0.0.0/40"),
        ("port:http", "port:http"),
        ("listener:", "listener:"),
        ("port:1,port:2", "port:2"),
        ("10.0.0.0/8,from:10.0.0.0/8", "from:10.0.0.0/8"),
        ("user:root", "user:root"),
    ] {
        let error = text.parse::<Rule>().unwrap_err();
        assert_eq!(error.condition, condition, "{text}");
        assert!(error.to_string().contains("listener:NAME"), "{error}");
    }
}

#[test]
fn slots_beyond_the_last_class_belong_to_it() {
    let router = router();
    assert_eq!(
        [0, 1, 2, 9].map(|slot| router.name(router.class_of_slot(Slot::new(slot)))),
        ["normal", "normal", "special", "special"]
    );
}

#[test]
fn what_does_not_fit_together_is_explained() {
    let refused = |route: Route| Router::new(route).unwrap_err().to_string();
    assert!(refused(Route::new()).contains("none is named"));
    assert!(refused(route(Class::new("normal", 1))).contains("two classes are called \"normal\""));
    assert!(refused(route(Class::new("", 1))).contains("needs a name"));
    assert!(refused(route(Class::new("special", 0))).contains("at least one worker"));
    assert!(refused(route(Class::new("special", 5_000))).contains("4096"));
    assert!(
        refused(route(Class::new("other", 1)))
            .contains("no class is called \"special\"; there are normal, other")
    );
    for policy in [Policy::Shared, Policy::Reuseport, Policy::Route] {
        let text = refused(route(Class::new("special", 1).policy(policy)));
        assert!(text.contains("choose round-robin (rr), least or sticky"), "{text}");
    }
    let spills = |to: &str| Class::new("special", 1).when_full(WhenFull::SpillTo(to.into()));
    assert!(refused(route(spills("nobody"))).contains("no class is called \"nobody\""));
    assert!(refused(route(spills("special"))).contains("spills to itself"));
    let many = (0..256).fold(Route::new(), |route, n| route.class(Class::new(n.to_string(), 1)));
    assert!(refused(many).contains("256 classes"));
}

#[test]
fn networks_have_bounds() {
    let contains =
        |network: &str, address: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
    assert!(contains("0.0.0.0/0", "203.0.113.9") && !contains("0.0.0.0/0", "::1"));
    assert!(contains("2001:db8::/32", "2001:db8:ffff::1") && !contains("2001:db8::/32", "2001:db9::1"));
    assert!(contains("127.0.0.2", "127.0.0.2") && !contains("127.0.0.2", "127.0.0.3"));
    for wrong in ["10.0.0.0/33", "::/129", "10.0.0/8", "", "10.0.0.0/", "10.0.0.0/-1"] {
        assert!(wrong.parse::<Network>().is_err(), "{wrong}");
    }
}
