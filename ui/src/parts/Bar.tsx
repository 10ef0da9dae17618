import { useLayoutEffect, useRef } from "preact/hooks";
import { percent } from "../format";

/** A share as a bar, with its figure. */
export function Bar({ value, label, wide }: { value: number; label: string; wide?: boolean }) {
  const fill = useRef<HTMLSpanElement>(null);
  useLayoutEffect(() => {
    if (fill.current) fill.current.style.width = `${100 * Math.min(1, Math.max(0, value))}%`;
  }, [value]);
  return (
    <span class={wide ? "bar wide" : "bar"}>
      <span class="track" role="progressbar" aria-label={label} aria-valuemin={0} aria-valuemax={100} aria-valuenow={Math.round(100 * value)}>
        <span class="fill" ref={fill} />
      </span>
      <span class="bar-figure">{percent(value, 0)}</span>
    </span>
  );
}
