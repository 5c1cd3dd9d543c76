//! Which Service gets a frontend that several claim. The API server hands out each cluster IP once, but manifests may
//! repeat one, and a list may show a new owner before it shows that the old one is gone.

use std::collections::{BTreeSet, HashMap};

use tracing::warn;

use crate::model::{Frontend, ObjectName, Service};

#[derive(Default, Debug)]
pub(super) struct Frontends {
    owners: HashMap<Frontend, ObjectName>,
    /// Every claimant of the frontends that more than one Service claims, the owner included.
    contested: HashMap<Frontend, BTreeSet<ObjectName>>,
}

impl Frontends {
    pub(super) fn owner(&self, frontend: &Frontend) -> Option<&ObjectName> {
        self.owners.get(frontend)
    }

    pub(super) fn len(&self) -> usize {
        self.owners.len()
    }

    pub(super) fn conflicts(&self) -> usize {
        self.contested.len()
    }

    /// Moves the claims of one Service; adds every other Service that wins or loses a frontend to `affected`.
    pub(super) fn replace(
        &mut self,
        name: &ObjectName,
        old: Option<&Service>,
        new: Option<&Service>,
        affected: &mut BTreeSet<ObjectName>,
    ) {
        let claims = |service: Option<&Service>| -> BTreeSet<Frontend> {
            service.into_iter().flat_map(Service::frontends).collect()
        };
        let (old, new) = (claims(old), claims(new));
        for frontend in old.difference(&new) {
            self.release(name, frontend, affected);
        }
        for frontend in new.difference(&old) {
            self.claim(name, frontend, affected);
        }
    }

    fn claim(&mut self, name: &ObjectName, frontend: &Frontend, affected: &mut BTreeSet<ObjectName>) {
        let Some(owner) = self.owners.get_mut(frontend) else {
            self.owners.insert(*frontend, name.clone());
            return;
        };
        let claimants = self.contested.entry(*frontend).or_insert_with(|| BTreeSet::from([owner.clone()]));
        claimants.insert(name.clone());
        if name < owner {
            affected.insert(std::mem::replace(owner, name.clone()));
        }
        warn!(
            address = %frontend.address, transport = %frontend.transport, service = %name, owner = %owner,
            "two Services claim one cluster IP and port, the first by name gets it: give one another clusterIP"
        );
    }

    fn release(&mut self, name: &ObjectName, frontend: &Frontend, affected: &mut BTreeSet<ObjectName>) {
        let Some(claimants) = self.contested.get_mut(frontend) else {
            self.owners.remove(frontend);
            return;
        };
        claimants.remove(name);
        if let Some(first) = claimants.first()
            && self.owners.get(frontend) == Some(name)
        {
            affected.insert(first.clone());
            self.owners.insert(*frontend, first.clone());
        }
        if claimants.len() < 2 {
            self.contested.remove(frontend);
        }
    }
}
