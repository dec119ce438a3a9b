//! Writes the data of SVG paths, in whole units and relative steps, so that a picture stays small.

use std::fmt::Write;

use super::camera::Spot;

/// The data of a path that grows.
#[derive(Debug, Default)]
pub(super) struct Pen {
    data: String,
}

impl Pen {
    /// Adds an open line through these places.
    pub fn line(&mut self, spots: impl IntoIterator<Item = Spot>) {
        let mut at: Option<[i32; 2]> = None;
        let mut steps = false;
        for spot in spots {
            let next = spot.map(|unit| unit.round() as i32);
            match at {
                None => self.pair("M", next),
                Some(last) if last == next => continue,
                Some(last) => {
                    let letter = if steps { "" } else { "l" };
                    self.pair(letter, [next[0] - last[0], next[1] - last[1]]);
                    steps = true;
                }
            }
            at = Some(next);
        }
    }

    /// Adds a closed shape with these corners.
    pub fn shape(&mut self, spots: impl IntoIterator<Item = Spot>) {
        self.line(spots);
        self.data.push('z');
    }

    /// Adds a curve: from one place to another, drawn towards a third.
    pub fn arc(&mut self, from: Spot, towards: Spot, to: Spot) {
        let [from, towards, to] =
            [from, towards, to].map(|spot| spot.map(|unit| unit.round() as i32));
        self.pair("M", from);
        self.pair("Q", towards);
        self.pair(" ", to);
    }

    pub fn data(self) -> String {
        self.data
    }

    fn pair(&mut self, letter: &str, [x, y]: [i32; 2]) {
        self.data.push_str(letter);
        let glued = letter.is_empty() && x >= 0;
        let separator = |number: i32| if number >= 0 { " " } else { "" };
        // Writing to a String can't fail.
        let _ = write!(
            self.data,
            "{}{x}{}{y}",
            if glued { " " } else { "" },
            separator(y)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_written_in_few_bytes() {
        let mut pen = Pen::default();
        pen.shape([[10.0, 20.0], [15.2, 18.0], [15.4, 18.2], [9.0, 30.0]]);
        pen.line([[1.0, -1.0], [2.0, 3.0]]);
        assert_eq!(pen.data(), "M10 20l5-2-6 12zM1-1l1 4");
    }
}
