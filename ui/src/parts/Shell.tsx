import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { Link, useLocation } from "wouter-preact";
import { endSession, useSession } from "../state/session";
import { setTheme, useTheme, type Theme } from "../state/theme";

interface Place {
  path: string;
  name: string;
  /** Any of them opens it. */
  scopes: readonly string[];
}

export const PLACES: readonly Place[] = [
  { path: "/jobs", name: "Jobs", scopes: ["jobs:read"] },
  { path: "/models", name: "Models", scopes: ["data:read"] },
  { path: "/datasets", name: "Datasets", scopes: ["data:read"] },
  { path: "/webhooks", name: "Webhooks", scopes: ["jobs:read"] },
  { path: "/projects", name: "Projects and keys", scopes: ["admin", "keys:write"] },
  { path: "/audit", name: "Audit log", scopes: ["audit:read", "admin"] },
];

/** The frame of every page: where one is, who one is, and the page. */
export function Shell({ children }: { children: ComponentChildren }) {
  const [location] = useLocation();
  const { who, may } = useSession();
  const here = location === "/" ? "/jobs" : location;
  const nav = useRef<HTMLElement>(null);
  // On a small screen the places are wider than it.
  useEffect(() => nav.current?.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" }), [here, who]);
  const places = PLACES.filter((place) => !who || place.scopes.some(may));
  return (
    <div class="shell">
      <a class="skip" href="#main">
        Skip to content
      </a>
      <header class="top">
        <Link href="/jobs" class="brand">
          <Mark />
          Secateur
        </Link>
        <nav aria-label="Pages" ref={nav}>
          <ul>
            {places.map((place) => (
              <li>
                <Link href={place.path} aria-current={isWithin(here, place.path, places) ? "page" : undefined}>
                  {place.name}
                </Link>
              </li>
            ))}
          </ul>
        </nav>
        <div class="who">
          <ThemeSwitch />
          <span class="project" title={who?.key.hint}>
            <span class="unseen">Project </span>
            {who?.project.name ?? " "}
          </span>
          <button type="button" class="quiet-button" onClick={() => endSession(null)}>
            Sign out
          </button>
        </div>
      </header>
      <main id="main" tabIndex={-1}>
        {children}
      </main>
    </div>
  );
}

function isWithin(here: string, path: string, places: readonly Place[]): boolean {
  const fitting = places.filter((place) => here === place.path || here.startsWith(`${place.path}/`));
  return fitting.sort((one, other) => other.path.length - one.path.length)[0]?.path === path;
}

const THEMES: Record<Theme, string> = { system: "Theme: system", light: "Theme: light", dark: "Theme: dark" };

export function ThemeSwitch() {
  const { theme } = useTheme();
  return (
    <select
      class="theme"
      aria-label="Theme"
      value={theme}
      onChange={(event) => setTheme(event.currentTarget.value as Theme)}
    >
      {Object.entries(THEMES).map(([value, label]) => (
        <option value={value} selected={value === theme}>
          {label}
        </option>
      ))}
    </select>
  );
}

export function Mark() {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="7" />
      <path d="M9 7l10 13M23 7L13 20" />
      <circle cx="11" cy="23" r="3" />
      <circle cx="21" cy="23" r="3" />
    </svg>
  );
}

/** A page's head: its title, what it is about, and what can be done. */
export function Head({ title, about, children }: { title: ComponentChildren; about?: ComponentChildren; children?: ComponentChildren }) {
  return (
    <div class="head">
      <div>
        <h1>{title}</h1>
        {about && <div class="quiet">{about}</div>}
      </div>
      {children && <div class="actions">{children}</div>}
    </div>
  );
}
