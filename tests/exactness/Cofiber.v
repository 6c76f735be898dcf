(** The cofiber decomposition loses nothing.

    [detheads/ops/cofiber.py] splits a feature map into bands:

      residual 0     = the map
      residual (i+1) = down i (residual i)
      band i         = residual i - up i (residual (i+1))

    The first part proves that the bands and the last residual give the map back, for every number of levels and
    whatever [down] and [up] are: the average of cells and the bilinear interpolation that are used, learned ones, even
    ones that are not linear. The second part is about the operators that are used, on a grid: they are linear, and the
    bands are NOT orthogonal to what is removed, as is sometimes said; the smallest counterexample stands at the end. *)

From Coq Require Import Arith Lia FunctionalExtensionality QArith Qcanon.
Local Open Scope nat_scope.

(** * Maps that can be added *)

Record Group := {
  carrier :> Type;
  zero : carrier;
  add : carrier -> carrier -> carrier;
  opp : carrier -> carrier;
  add_assoc : forall x y z, add x (add y z) = add (add x y) z;
  add_comm : forall x y, add x y = add y x;
  add_zero : forall x, add x zero = x;
  add_opp : forall x, add x (opp x) = zero
}.

Arguments zero {_}.
Arguments add {_} _ _.
Arguments opp {_} _.

Definition sub {G : Group} (x y : G) : G := add x (opp y).

Lemma sub_add {G : Group} (x y : G) : add (sub x y) y = x.
Proof.
  unfold sub. rewrite <- add_assoc, (add_comm _ (opp y)), add_opp. apply add_zero.
Qed.

Lemma zero_add {G : Group} (x : G) : add zero x = x.
Proof. rewrite add_comm. apply add_zero. Qed.

Lemma add_swap {G : Group} (a b c d : G) : add (add a b) (add c d) = add (add a c) (add b d).
Proof.
  rewrite <- !add_assoc. f_equal. rewrite !add_assoc. f_equal. apply add_comm.
Qed.

Lemma cancel {G : Group} (x y z : G) : add x z = add y z -> x = y.
Proof.
  intro same. rewrite <- (add_zero _ x), <- (add_zero _ y), <- (add_opp _ z), !add_assoc, same. reflexivity.
Qed.

(** * Exactness, for any operators and any number of levels *)

Section Exactness.
  Variable M : nat -> Group.  (** the maps of each level *)
  Variable down : forall i, M i -> M (S i).
  Variable up : forall i, M (S i) -> M i.

  Fixpoint residual (f : M 0) (i : nat) : M i :=
    match i with
    | 0 => f
    | S j => down j (residual f j)
    end.

  Definition band (f : M 0) (i : nat) : M i := sub (residual f i) (up i (residual f (S i))).

  Lemma step_is_exact (f : M 0) (i : nat) : residual f i = add (band f i) (up i (residual f (S i))).
  Proof. symmetry. apply sub_add. Qed.

  (** From the coarsest level to the finest: add a band to what the coarser levels gave, enlarged. *)
  Fixpoint rebuild (bands : forall i, M i) (n : nat) : M n -> M 0 :=
    match n with
    | 0 => fun x => x
    | S m => fun x => rebuild bands m (add (bands m) (up m x))
    end.

  Theorem rebuilding_is_exact (n : nat) (f : M 0) : rebuild (band f) n (residual f n) = f.
  Proof.
    induction n as [| n holds]; [reflexivity |].
    cbn. change (down n (residual f n)) with (residual f (S n)). rewrite <- step_is_exact. exact holds.
  Qed.

  (** Nothing is lost: maps with the same bands and the same last residual are the same. *)
  Corollary bands_tell_maps_apart (n : nat) (f g : M 0) :
    (forall i, i < n -> band f i = band g i) -> residual f n = residual g n -> f = g.
  Proof.
    intros bands last.
    enough (residual f 0 = residual g 0) by assumption.
    assert (down_to : forall k, k <= n -> residual f (n - k) = residual g (n - k)).
    { induction k as [| k same]; intro below; [rewrite Nat.sub_0_r; exact last |].
      replace (n - k) with (S (n - S k)) in same by lia.
      rewrite (step_is_exact f), (step_is_exact g), (bands (n - S k)) by lia.
      f_equal. f_equal. apply same. lia. }
    specialize (down_to n (le_n n)). rewrite Nat.sub_diag in down_to. exact down_to.
  Qed.

  (** A map of level [n], enlarged to the finest level. *)
  Fixpoint enlarge (n : nat) : M n -> M 0 :=
    match n with
    | 0 => fun x => x
    | S m => fun x => enlarge m (up m x)
    end.

  Fixpoint sum_of_bands (f : M 0) (n : nat) : M 0 :=
    match n with
    | 0 => zero
    | S m => add (sum_of_bands f m) (enlarge m (band f m))
    end.

  Hypothesis up_is_additive : forall i x y, up i (add x y) = add (up i x) (up i y).

  Lemma enlarging_is_additive (n : nat) (x y : M n) : enlarge n (add x y) = add (enlarge n x) (enlarge n y).
  Proof.
    induction n as [| n additive]; [reflexivity |]. cbn. rewrite up_is_additive. apply additive.
  Qed.

  (** The map is the plain sum of its bands, each enlarged by itself, and of the last residual. *)
  Theorem bands_sum_back (n : nat) (f : M 0) : add (sum_of_bands f n) (enlarge n (residual f n)) = f.
  Proof.
    induction n as [| n holds]; [apply zero_add |].
    cbn. rewrite <- add_assoc, <- enlarging_is_additive.
    change (down n (residual f n)) with (residual f (S n)). rewrite <- step_is_exact. exact holds.
  Qed.

  Hypothesis down_is_additive : forall i x y, down i (add x y) = add (down i x) (down i y).

  Lemma residuals_are_additive (f g : M 0) (i : nat) : residual (add f g) i = add (residual f i) (residual g i).
  Proof.
    induction i as [| i additive]; [reflexivity |]. cbn. rewrite additive. apply down_is_additive.
  Qed.

  (** The bands of a sum are the sums of the bands. *)
  Theorem bands_are_additive (f g : M 0) (i : nat) : band (add f g) i = add (band f i) (band g i).
  Proof.
    apply (cancel _ _ (up i (residual (add f g) (S i)))).
    rewrite <- step_is_exact, !residuals_are_additive, up_is_additive, add_swap, <- !step_is_exact. reflexivity.
  Qed.
End Exactness.

(** * The operators that are used *)

Local Open Scope Qc_scope.

Definition quarter : Qc := Q2Qc (1 # 4).
Definition three_quarters : Qc := Q2Qc (3 # 4).
Definition half : Qc := Q2Qc (1 # 2).
Definition eighth : Qc := Q2Qc (1 # 8).
Definition six_eighths : Qc := Q2Qc (6 # 8).

Definition line := nat -> Qc.

(** The average of two neighbours, and the linear interpolation at half-pixel centres to twice the length, where cells
    beyond the border count as those at it; [count] is the number of coarse cells. *)
Definition average (f : line) : line := fun k => (f (2 * k)%nat + f (2 * k + 1)%nat) * half.

Definition interpolate (count : nat) (g : line) : line := fun j =>
  let k := Nat.div2 j in
  if Nat.even j
  then quarter * g (pred k) + three_quarters * g k
  else three_quarters * g k + quarter * g (Nat.min (S k) (pred count)).

Lemma averages_add (f g : line) : average (fun k => f k + g k) = fun k => average f k + average g k.
Proof. extensionality k. unfold average. ring. Qed.

Lemma interpolations_add (count : nat) (f g : line) :
  interpolate count (fun k => f k + g k) = fun j => interpolate count f j + interpolate count g j.
Proof. extensionality j. unfold interpolate. destruct (Nat.even j); ring. Qed.

(** Along rows and along columns. *)
Definition picture := nat -> nat -> Qc.

Definition average_cells (f : picture) : picture := fun y x => average (fun y' => average (f y') x) y.

Definition interpolate_cells (height width : nat) (g : picture) : picture :=
  fun y x => interpolate height (fun y' => interpolate width (g y') x) y.

Definition pictures : Group.
Proof.
  refine {| carrier := picture;
            zero := fun _ _ => 0;
            add := fun f g y x => f y x + g y x;
            opp := fun f y x => - f y x |};
    intros; extensionality y'; extensionality x'; ring.
Defined.

Lemma cell_averages_add (f g : pictures) : average_cells (add f g) = @add pictures (average_cells f) (average_cells g).
Proof.
  extensionality y. extensionality x. unfold average_cells. cbn.
  replace (fun y' => average (fun x' => f y' x' + g y' x') x) with
    (fun y' => average (f y') x + average (g y') x)
    by (extensionality y'; rewrite (averages_add (f y') (g y')); reflexivity).
  rewrite (averages_add (fun y' => average (f y') x)). reflexivity.
Qed.

Lemma cell_interpolations_add (height width : nat) (f g : pictures) :
  interpolate_cells height width (add f g)
  = @add pictures (interpolate_cells height width f) (interpolate_cells height width g).
Proof.
  extensionality y. extensionality x. unfold interpolate_cells. cbn.
  replace (fun y' => interpolate width (fun x' => f y' x' + g y' x') x) with
    (fun y' => interpolate width (f y') x + interpolate width (g y') x)
    by (extensionality y'; rewrite (interpolations_add width (f y') (g y')); reflexivity).
  rewrite (interpolations_add height (fun y' => interpolate width (f y') x)). reflexivity.
Qed.

(** The bands of the program sum back to the features, channel by channel; level [i + 1] has [heights i] x [widths i]
    cells. *)
Theorem cofiber_bands_sum_back (heights widths : nat -> nat) (n : nat) (features : pictures) :
  let M := fun _ : nat => pictures in
  let down := fun _ : nat => average_cells in
  let up := fun i : nat => interpolate_cells (heights i) (widths i) in
  @add pictures (sum_of_bands M down up features n) (enlarge M up n (residual M down features n)) = features.
Proof.
  intros M down up. apply (bands_sum_back M down up). intros i f g. apply cell_interpolations_add.
Qed.

(** * What does not hold *)

(** The average of what was interpolated is not what it was: it is smoothed by [1/8, 6/8, 1/8]. *)
Theorem averaging_what_was_interpolated_smooths (count k : nat) (g : line) :
  (0 < k)%nat -> (S k < count)%nat ->
  average (interpolate count g) k = eighth * g (pred k) + six_eighths * g k + eighth * g (S k).
Proof.
  intros inside within. unfold average, interpolate.
  replace (Nat.even (2 * k)) with true by (symmetry; apply Nat.even_spec; exists k; reflexivity).
  replace (Nat.even (2 * k + 1)) with false
    by (symmetry; rewrite <- Nat.negb_odd; apply Bool.negb_false_iff, Nat.odd_spec; exists k; reflexivity).
  replace (Nat.div2 (2 * k)) with k by (symmetry; apply Nat.div2_double).
  replace (Nat.div2 (2 * k + 1)) with k by (rewrite Nat.add_1_r; symmetry; apply Nat.div2_succ_double).
  replace (Nat.min (S k) (pred count)) with (S k) by lia.
  replace eighth with (quarter * half) by (apply Qc_is_canon; reflexivity).
  replace six_eighths with (three_quarters * half + three_quarters * half) by (apply Qc_is_canon; reflexivity).
  ring.
Qed.

(** The smallest line for which band and low-pass part are not orthogonal: 1, 1, 0, 0. Its averages are 1, 0, which are
    interpolated to 1, 3/4, 1/4, 0; the band is 0, 1/4, -1/4, 0, and their product is 1/8. *)
Definition edge : line := fun j => match j with 0%nat | 1%nat => 1 | _ => 0 end.

Definition edge_low : line := interpolate 2 (average edge).
Definition edge_band : line := fun j => edge j - edge_low j.

Definition product (f g : line) : Qc := f 0%nat * g 0%nat + f 1%nat * g 1%nat + f 2%nat * g 2%nat + f 3%nat * g 3%nat.

Theorem bands_are_not_orthogonal : product edge_band edge_low = eighth.
Proof. apply Qc_is_canon. reflexivity. Qed.

(** And the band keeps some low frequency: its averages are not zero. *)
Theorem bands_keep_low_frequencies : average edge_band 0%nat = eighth.
Proof. apply Qc_is_canon. reflexivity. Qed.

Print Assumptions rebuilding_is_exact.
Print Assumptions bands_sum_back.
Print Assumptions cofiber_bands_sum_back.
