//! Writes the frames of the demo's clips as SVG files; `web/clips/make` makes films of them.
//!
//!     cargo run --example frames -- FOLDER

use std::f32::consts::TAU;
use std::path::Path;
use std::process::ExitCode;

use canvas_cluster::app::art::frame;

/// Frames of a clip; at 24 a second they take 4 and 3 seconds.
const TURN: u16 = 96;
const STEP: u16 = 72;

/// The shoes that are shown.
const TURNING: i32 = 7;
const WALKING: i32 = 12;

fn main() -> ExitCode {
    let Some(folder) = std::env::args_os().nth(1) else {
        eprintln!("frames: name the folder that the frames go to");
        return ExitCode::from(100);
    };
    match write(Path::new(&folder)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("frames: {}: {error}", Path::new(&folder).display());
            ExitCode::from(111)
        }
    }
}

fn write(folder: &Path) -> std::io::Result<()> {
    for number in 0..TURN {
        let turned = f32::from(number) / f32::from(TURN);
        // From the three-quarter view of the pictures, once around.
        let picture = frame(TURNING, -40.0 + 360.0 * turned, 0.0);
        std::fs::write(folder.join(format!("1-{number:03}.svg")), picture)?;
    }
    for number in 0..STEP {
        let phase = f32::from(number) / f32::from(STEP);
        // Twice up and down, and the camera sways once: the end meets the beginning.
        let lifted = 0.36 * (0.5 - 0.5 * (2.0 * TAU * phase).cos());
        let picture = frame(WALKING, -14.0 + 10.0 * (TAU * phase).sin(), lifted);
        std::fs::write(folder.join(format!("2-{number:03}.svg")), picture)?;
    }
    Ok(())
}
