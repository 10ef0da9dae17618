/** Light, dark, or as the system has it. */
import { useEffect, useState } from "preact/hooks";

export type Theme = "system" | "light" | "dark";
const NAME = "secateur-theme";
const listeners = new Set<() => void>();
const system = matchMedia("(prefers-color-scheme: dark)");

export function theme(): Theme {
  const stored = localStorage.getItem(NAME);
  return stored === "light" || stored === "dark" ? stored : "system";
}

export function setTheme(theme: Theme): void {
  if (theme === "system") localStorage.removeItem(NAME);
  else localStorage.setItem(NAME, theme);
  applyTheme();
}

export function applyTheme(): void {
  document.documentElement.dataset["theme"] = theme();
  for (const listener of [...listeners]) listener();
}

export const isDark = () => (theme() === "system" ? system.matches : theme() === "dark");

export function useTheme(): { theme: Theme; dark: boolean } {
  const [, again] = useState(0);
  useEffect(() => {
    const listener = () => again((count) => count + 1);
    listeners.add(listener);
    system.addEventListener("change", listener);
    return () => {
      listeners.delete(listener);
      system.removeEventListener("change", listener);
    };
  }, []);
  return { theme: theme(), dark: isDark() };
}
