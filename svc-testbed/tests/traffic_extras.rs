//! What clients get beside connections: answers to pings, and fragments in any order.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod traffic_support;

use anyhow::{Context, Result};
use svc_testbed::{
    Client, Family, Outcome, Ping,
    client::{expect_all, expect_replies_from},
    manifests::ServiceSpec,
};
use traffic_support::{AGENT_NODE, AT_ONCE, Mode, World, lab, service, vip};

fn ping(client: &Client, web: &ServiceSpec, outcome: Outcome) -> Result<()> {
    for family in Family::BOTH {
        let to = vip(web, family, 0);
        let samples = client.ping(Ping::to(to.ip()).count(3).timeout(AT_ONCE))?;
        expect_all(&samples, outcome).with_context(|| format!("{to}"))?;
        if outcome == Outcome::Ok {
            expect_replies_from(&samples, to)?;
        }
    }
    Ok(())
}

#[test]
fn a_ping_is_answered_while_the_service_has_an_endpoint() -> Result<()> {
    for mode in Mode::BOTH {
        World::start(lab().outside("ext"), mode)?.check(|world| {
            let web = service("web", 60);
            world.publish(&web, &["far"])?;
            let clients = ["client", AGENT_NODE, "ext"];
            let all = |outcome| {
                clients.iter().try_for_each(|name| {
                    let client = world.machine(name)?.client()?;
                    ping(&client, &web, outcome).with_context(|| format!("{outcome:?} from {name}"))
                })
            };
            all(Outcome::Ok)?;
            world.scale(&web, &[])?;
            all(Outcome::Unreachable)?;
            world.scale(&web, &["near"])?;
            all(Outcome::Ok)
        })?;
    }
    Ok(())
}
