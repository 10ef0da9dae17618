/** Colours of the pictures; series are told apart without red against green. */
export interface Palette {
  text: string;
  quiet: string;
  line: string;
  surface: string;
  series: readonly string[];
  /** From little to much. */
  ramp: readonly string[];
  good: string;
  bad: string;
  idle: string;
}

const LIGHT: Palette = {
  text: "#17201d", quiet: "#55605b", line: "#dfe3e1", surface: "#ffffff",
  series: ["#14695a", "#c2571a", "#3f63b8", "#8a5aa8", "#8a6d00", "#b03a6b"],
  ramp: ["#eef5f2", "#b5d9cd", "#6bb3a1", "#2b8573", "#0d4a3f"],
  good: "#1b6b3a", bad: "#a42525", idle: "#8a9490",
};
const DARK: Palette = {
  text: "#e6eaec", quiet: "#a3adb4", line: "#30373d", surface: "#1b1f23",
  series: ["#5cc4ae", "#f0985f", "#8fb0f5", "#c9a0e4", "#dcc05a", "#f08bb4"],
  ramp: ["#20302c", "#275a4e", "#33867a", "#58b9a7", "#a9ecdd"],
  good: "#76cf95", bad: "#f29b94", idle: "#6d7880",
};

export const paletteOf = (dark: boolean) => (dark ? DARK : LIGHT);
