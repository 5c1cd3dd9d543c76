//! A pinned hash map, by interface, that only the agent writes: it is made to hold exactly what is wanted, and nothing that is
//! there already is written again. Must not know what the values mean. Neighbours: `forward` and `xdp`.

use std::collections::BTreeMap;

use aya::maps::{HashMap, Map, MapData, MapError};

use super::pin::PinDir;

pub(super) struct Mirror<V: aya::Pod> {
    map: HashMap<MapData, u32, V>,
    written: BTreeMap<u32, V>,
}

impl<V: aya::Pod + PartialEq> Mirror<V> {
    /// Takes over what an earlier agent wrote.
    pub fn open(pins: &PinDir, name: &str) -> Result<Self, MapError> {
        let map: HashMap<MapData, u32, V> = Map::HashMap(MapData::from_pin(pins.map(name))?).try_into()?;
        let written = map.iter().collect::<Result<_, _>>()?;
        Ok(Self { map, written })
    }

    /// What fails is tried again by the next call.
    pub fn set(&mut self, wanted: &BTreeMap<u32, V>) -> Result<(), MapError> {
        let unwanted: Vec<u32> = self.written.keys().filter(|index| !wanted.contains_key(index)).copied().collect();
        for index in unwanted {
            match self.map.remove(&index) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
            self.written.remove(&index);
        }
        for (&index, value) in wanted {
            if self.written.get(&index) != Some(value) {
                self.map.insert(index, value, 0)?;
                self.written.insert(index, *value);
            }
        }
        Ok(())
    }
}
