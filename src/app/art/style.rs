//! What a shoe looks like, from its number: its kind, colours, material, marks and sole. The same number always gives the
//! same shoe, and neighbours differ in kind and colours.

use std::fmt;

/// The kinds of shoe that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Runner,
    Court,
    Loafer,
    HighTop,
    Boot,
}

impl Kind {
    /// As one says it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Runner => "running shoe",
            Kind::Court => "tennis shoe",
            Kind::Loafer => "loafer",
            Kind::HighTop => "high-top shoe",
            Kind::Boot => "ankle boot",
        }
    }
}

/// What the upper is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Texture {
    Mesh,
    Knit,
    Leather,
    Suede,
}

impl Texture {
    /// As one says it.
    pub fn name(self) -> &'static str {
        match self {
            Texture::Mesh => "mesh",
            Texture::Knit => "knit",
            Texture::Leather => "leather",
            Texture::Suede => "suede",
        }
    }
}

/// The mark on each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Wave,
    Bars,
    Chevrons,
    Disc,
}

/// What the underside is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tread {
    Chevrons,
    Ripples,
    Blocks,
    Herringbone,
    Discs,
}

/// What is seen of the sole from the side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wall {
    /// A line around it.
    Foxed,
    /// A wedge of another colour in the heel.
    Wedge,
    /// Windows in the heel.
    Windows,
    /// A tread that comes up its sides.
    Lugs,
    /// Layers of leather under a welt.
    Stacked,
}

/// A colour, written `#rrggbb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rgb(pub u32);

impl Rgb {
    pub const BLACK: Rgb = Rgb(0x17_13_10);
    pub const WHITE: Rgb = Rgb(0xff_ff_ff);

    /// So much (0 to 1) of the way to another colour.
    pub fn mix(self, other: Rgb, share: f32) -> Rgb {
        let channel = |shift: u32| {
            let (from, to) = ((self.0 >> shift) & 0xff, (other.0 >> shift) & 0xff);
            let mixed = from as f32 + (to as f32 - from as f32) * share;
            (mixed.round().clamp(0.0, 255.0) as u32) << shift
        };
        Rgb(channel(16) | channel(8) | channel(0))
    }

    pub fn darker(self, share: f32) -> Rgb {
        self.mix(Rgb::BLACK, share)
    }

    pub fn lighter(self, share: f32) -> Rgb {
        self.mix(Rgb::WHITE, share)
    }

    /// How light it looks, 0 to 1.
    pub fn light(self) -> f32 {
        let channel = |shift: u32| ((self.0 >> shift) & 0xff) as f32 / 255.0;
        0.299 * channel(16) + 0.587 * channel(8) + 0.114 * channel(0)
    }
}

impl fmt::Display for Rgb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:06x}", self.0)
    }
}

/// The colours of one shoe and of the paper behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Palette {
    pub upper: Rgb,
    pub overlay: Rgb,
    pub accent: Rgb,
    pub lining: Rgb,
    pub midsole: Rgb,
    pub outsole: Rgb,
    pub lace: Rgb,
    pub paper: Rgb,
}

/// One row a palette: upper, overlay, accent, lining, midsole, outsole, lace, paper.
const PALETTES: [[u32; 8]; 13] = [
    // Chalk and terracotta on a gum sole.
    [
        0xf3efe6, 0xe3dccd, 0xc2532f, 0xd8c6ae, 0xfbf8f1, 0xb98a58, 0xffffff, 0xd9d1c4,
    ],
    // Midnight and apricot.
    [
        0x2a3a63, 0x1b2747, 0xf2a65a, 0x4a5a86, 0xf6f2e8, 0x232838, 0xede7da, 0xc7cfde,
    ],
    // Sage.
    [
        0x93aa90, 0x6f8c6d, 0xf5efdf, 0x58735a, 0xf7f3e8, 0xab8760, 0xf7f1e2, 0xdde3d5,
    ],
    // Ember.
    [
        0xca4a30, 0x9a2f1f, 0xf8d9a6, 0x74251a, 0xf8f1e4, 0x2c2522, 0xfbf1e4, 0xead6c9,
    ],
    // Graphite and ice.
    [
        0x43474d, 0x2d3035, 0x8fd6cc, 0x5c6269, 0xe2e3df, 0x202226, 0xeceeea, 0xccd1d3,
    ],
    // Sand.
    [
        0xdcc39c, 0xbd9d6d, 0x4f4a78, 0xa58760, 0xf8f1e1, 0x80603e, 0xfff8ea, 0xece3d3,
    ],
    // Ocean and sun.
    [
        0x2c7fa3, 0x1c5c7c, 0xffcc5c, 0x164a60, 0xf5f8f6, 0x22343c, 0xffffff, 0xcfe0e6,
    ],
    // Plum.
    [
        0x74507a, 0x553655, 0xf4bfa2, 0x40293f, 0xf5ebe7, 0x2c1f2c, 0xf8e9e2, 0xe1d5de,
    ],
    // Cognac.
    [
        0xa8642f, 0x824a22, 0xe0b078, 0x5a3419, 0xf0e3cf, 0x2b1d14, 0xf3e1c5, 0xe8d9c6,
    ],
    // Ink and vermilion.
    [
        0x2a2a2f, 0x38383e, 0xe0503c, 0x4a4a52, 0xf4f3ef, 0x1a1a1d, 0xf5f4f0, 0xd6d5d6,
    ],
    // Mint and coral.
    [
        0xa6d8c5, 0x7dbba2, 0xf0696a, 0x5f9783, 0xffffff, 0x3b5a51, 0xffffff, 0xdfeee8,
    ],
    // Rose.
    [
        0xe8b6b0, 0xcf928c, 0x7d3446, 0xb3726f, 0xfdf5f1, 0xb98a58, 0xffffff, 0xf0dfda,
    ],
    // Olive and ochre.
    [
        0x747846, 0x565a2f, 0xe0b355, 0x3f4220, 0xf1ead6, 0x2b2a1d, 0xebe2c2, 0xdcdcc6,
    ],
];

/// All that is decided of a shoe before it is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    pub kind: Kind,
    pub palette: Palette,
    pub texture: Texture,
    pub mark: Mark,
    pub tread: Tread,
    pub wall: Wall,
    /// How much longer and higher than its pattern it is, about 1.
    pub stretch: [f32; 2],
    /// Whether the upper and its overlays change colours.
    pub swapped: bool,
    /// Eyelets on each side.
    pub eyelets: usize,
}

impl Style {
    /// The style of the shoe with this number; every number has one.
    pub fn of(shoe_id: i32) -> Style {
        let mut dice = Dice::new(shoe_id);
        let kinds = [
            Kind::Runner,
            Kind::Court,
            Kind::Loafer,
            Kind::HighTop,
            Kind::Boot,
        ];
        // Steps that share no factor with the lengths: 65 shoes pass before a kind and its colours meet again.
        let kind = pick(&kinds, i64::from(shoe_id) * 2 + 3);
        let [
            upper,
            overlay,
            accent,
            lining,
            midsole,
            outsole,
            lace,
            paper,
        ] = pick(&PALETTES, i64::from(shoe_id) * 5 + 8).map(Rgb);
        let textures: &[Texture] = match kind {
            Kind::Runner => &[Texture::Mesh, Texture::Knit],
            Kind::Court | Kind::HighTop => &[Texture::Leather, Texture::Suede, Texture::Knit],
            Kind::Loafer | Kind::Boot => &[Texture::Leather, Texture::Suede],
        };
        let marks = [Mark::Wave, Mark::Bars, Mark::Chevrons, Mark::Disc];
        let treads = [
            Tread::Chevrons,
            Tread::Ripples,
            Tread::Blocks,
            Tread::Herringbone,
            Tread::Discs,
        ];
        let walls: &[Wall] = match kind {
            Kind::Runner => &[Wall::Wedge, Wall::Windows, Wall::Lugs],
            Kind::Court | Kind::HighTop => &[Wall::Foxed, Wall::Foxed, Wall::Wedge],
            Kind::Loafer | Kind::Boot => &[Wall::Stacked],
        };
        let mut palette = Palette {
            upper,
            overlay,
            accent,
            lining,
            midsole,
            outsole,
            lace,
            paper,
        };
        if matches!(kind, Kind::Loafer | Kind::Boot) {
            // A welt and a stacked heel are of leather, not of foam.
            palette.midsole = Rgb(0x6a4a33).mix(outsole, 0.35);
            palette.outsole = palette.midsole.darker(0.55);
        }
        Style {
            kind,
            palette,
            texture: pick(textures, dice.roll()),
            mark: pick(&marks, dice.roll()),
            tread: pick(&treads, dice.roll()),
            wall: pick(walls, dice.roll()),
            stretch: [0.97 + 0.06 * dice.share(), 1.06 + 0.12 * dice.share()],
            swapped: dice.roll() % 3 == 0,
            eyelets: 5 + (dice.roll() % 2) as usize,
        }
    }
}

/// The element that a number of any size falls on.
fn pick<T: Copy>(choices: &[T], number: i64) -> T {
    choices[number.rem_euclid(choices.len() as i64) as usize]
}

/// Numbers that only look random (splitmix64).
struct Dice(u64);

impl Dice {
    fn new(shoe_id: i32) -> Self {
        Dice(u64::from(shoe_id.cast_unsigned()) ^ 0x5ead_5ead_5ead_5ead)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to 65,535.
    fn roll(&mut self) -> i64 {
        (self.next() >> 48) as i64
    }

    /// From 0 to 1.
    fn share(&mut self) -> f32 {
        self.roll() as f32 / 65_535.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_differ_in_kind_and_colours() {
        for id in [i32::MIN, -8, -1, 0, 1, 7, 1000, i32::MAX - 1] {
            let (one, next) = (Style::of(id), Style::of(id + 1));
            assert_ne!(one.kind, next.kind, "{id}");
            assert_ne!(one.palette.upper, next.palette.upper, "{id}");
        }
    }

    #[test]
    fn colours_mix_and_are_written_in_full() {
        assert_eq!(Rgb(0x00_10_ff).to_string(), "#0010ff");
        assert_eq!(Rgb(0).mix(Rgb(0xff_ff_ff), 0.5), Rgb(0x80_80_80));
        assert!(Rgb::WHITE.light() > 0.99 && Rgb(0).light() < 0.01);
    }
}
