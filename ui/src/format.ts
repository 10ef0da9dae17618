/** Figures and times as people read them. */

export const NONE = "–";

export function number(value: number | null | undefined, digits = 2): string {
  return value === null || value === undefined ? NONE : value.toLocaleString("en", { maximumFractionDigits: digits });
}

/** A figure of any size, to `digits` significant ones. */
export function figure(value: number | null | undefined, digits = 4): string {
  if (value === null || value === undefined) return NONE;
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6)) return value.toExponential(digits - 2);
  return value.toLocaleString("en", { maximumSignificantDigits: digits });
}

export function signed(value: number | null | undefined, digits = 4): string {
  if (value === null || value === undefined) return NONE;
  return `${value > 0 ? "+" : value < 0 ? "−" : ""}${figure(Math.abs(value), digits)}`;
}

export function percent(value: number | null | undefined, digits = 1): string {
  return value === null || value === undefined ? NONE : `${number(100 * value, digits)} %`;
}

export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = value < 1 ? 0 : Math.min(Math.floor(Math.log2(value) / 10), units.length - 1);
  return `${number(value / 1024 ** power, power ? 1 : 0)} ${units[power]}`;
}

export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 60) return `${number(seconds, seconds < 10 ? 1 : 0)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

export function moment(value: string | null | undefined): string {
  if (!value) return NONE;
  return new Date(value).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

export function clock(value: string): string {
  return new Date(value).toLocaleTimeString("en-GB");
}

export function ago(value: string, now = Date.now()): string {
  const seconds = Math.max(0, (now - Date.parse(value)) / 1000);
  return seconds < 10 ? "just now" : `${duration(seconds)} ago`;
}

/** A count with its noun. */
export function count(value: number, one: string, many = `${one}s`): string {
  return `${value.toLocaleString("en")} ${value === 1 ? one : many}`;
}

/** A label of a word of the API: `least_forgetting` → `least forgetting`. */
export const words = (value: string) => value.replaceAll("_", " ");

/** An id as it is told apart: its kind and its end. */
export const short = (id: string) => (id.length > 14 ? `${id.slice(0, 4)}…${id.slice(-6)}` : id);

/** The model that a row of R is about; of a further target it is named by that alone. */
export const modelOf = ({ after, further }: { after: string | null; further?: unknown }) =>
  after === null ? "dense" : further === null || further === undefined ? `after ${after}` : after;
